//! kvx, the export format of kvs, from a stream: `kvs_format::kvx` knows the bytes, this knows reading.

use std::io::{self, Read};

use kvs_format::DecodeError;
use kvs_format::kvx::{Decoder, Pair, Step};

/// Bytes asked for at once. The buffer grows by as much, and only with bytes that came: no length in
/// the stream can ask for memory.
const READ_BYTES: usize = 256 << 10;

/// Why a stream could not be read to its end.
#[derive(Debug)]
pub enum KvxError<E> {
    Read(io::Error),
    /// What is wrong with its bytes, and where.
    Bad {
        offset: u64,
        reason: DecodeError,
    },
    /// What `each` said.
    Each(E),
}

/// Gives every pair of the stream to `each`, with the offset of its frame. Returns once the end frame
/// was there and nothing behind it.
pub fn read<E>(
    mut from: impl Read,
    mut each: impl FnMut(u64, &Pair<'_>) -> Result<(), E>,
) -> Result<(), KvxError<E>> {
    let mut decoder = Decoder::new();
    let mut buffer = Vec::new();
    let mut start = 0;
    let mut ended = false;
    loop {
        let offset = decoder.offset();
        let bad = |reason| KvxError::Bad { offset, reason };
        let rest = &buffer[start..];
        match decoder.step(rest).map_err(bad)? {
            Step::NeedMore(need) if ended => {
                let have = rest.len() as u64;
                return match decoder.is_at_end() {
                    true => Ok(()),
                    false => Err(bad(DecodeError::Truncated { need, have })),
                };
            }
            Step::NeedMore(_) => {
                buffer.drain(..start);
                start = 0;
                ended = more(&mut from, &mut buffer).map_err(KvxError::Read)? == 0;
            }
            Step::Header { used } | Step::End { used, .. } => start += used,
            Step::Pair { pair, used } => {
                each(offset, &pair).map_err(KvxError::Each)?;
                start += used;
            }
        }
    }
}

/// Appends what one read gives; 0 at the end.
fn more(from: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    // A buffer that held a huge value does not keep its memory for ever.
    if buffer.is_empty() {
        buffer.shrink_to(4 * READ_BYTES);
    }
    let old = buffer.len();
    buffer.resize(old + READ_BYTES, 0);
    let read = loop {
        match from.read(&mut buffer[old..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    buffer.truncate(old + read.as_ref().map_or(0, |read| *read));
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvs_format::kvx::Encoder;

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn export(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut bytes = Encoder::header().to_vec();
        for (key, value) in pairs {
            bytes.extend_from_slice(&encoder.pair(key, value, None).unwrap());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        bytes.extend_from_slice(&encoder.end());
        bytes
    }

    /// A reader that gives one byte at a time.
    struct Drops<'a>(&'a [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let len = to.len().min(1);
            self.0.read(&mut to[..len])
        }
    }

    fn read_all(from: impl Read) -> Result<Pairs, KvxError<()>> {
        let mut pairs = Pairs::new();
        read(from, |_, pair| {
            pairs.push((pair.key.to_vec(), pair.value.to_vec()));
            Ok(())
        })?;
        Ok(pairs)
    }

    #[test]
    fn pairs_come_back_however_the_bytes_arrive() {
        let pairs = vec![
            (b"a".to_vec(), b"1".to_vec()),
            (vec![], vec![]),
            (vec![7; 9], vec![8; 100]),
        ];
        let bytes = export(&pairs);
        assert_eq!(read_all(Drops(&bytes)).unwrap(), pairs);
        assert_eq!(read_all(&bytes[..]).unwrap(), pairs);
        let large = vec![(b"large".to_vec(), vec![9; 3 * READ_BYTES])];
        assert_eq!(read_all(&export(&large)[..]).unwrap(), large);
    }

    #[test]
    fn a_cut_stream_is_an_error_at_the_frame_that_is_cut() {
        let bytes = export(&[(b"a".to_vec(), b"1".to_vec())]);
        for cut in 0..bytes.len() {
            let Err(KvxError::Bad { offset, reason }) = read_all(&bytes[..cut]) else {
                panic!("cut at {cut}");
            };
            assert!(offset <= cut as u64);
            assert!(
                matches!(reason, DecodeError::Truncated { .. }),
                "{cut}: {reason}"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(
            read_all(&longer[..]),
            Err(KvxError::Bad {
                reason: DecodeError::AfterEnd,
                ..
            })
        ));
    }

    #[test]
    fn a_length_that_is_announced_is_no_memory() {
        let mut encoder = Encoder::new();
        let mut bytes = Encoder::header().to_vec();
        // A frame that says 100 MiB, and then the stream ends.
        let value = vec![0; 100 << 20];
        bytes.extend_from_slice(&encoder.pair(b"k", &value, None).unwrap());
        let mut buffer_max = 0;
        let mut from = &bytes[..];
        let mut buffer = Vec::new();
        while more(&mut from, &mut buffer).unwrap() > 0 {
            buffer_max = buffer_max.max(buffer.capacity());
        }
        assert!(buffer_max <= 4 * READ_BYTES, "{buffer_max}");
        assert!(read_all(&bytes[..]).is_err());
    }
}
