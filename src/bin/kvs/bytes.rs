//! Keys as text: how any bytes stand on the command line and in lines of keys.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::exit::Failure;

/// How a key stands on the command line and in lines of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Plain,
    /// Hexadecimal digits.
    Hex,
    /// Base64 with padding, RFC 4648 section 4.
    Base64,
}

impl Coding {
    /// The bytes that an argument stands for.
    pub fn decode(self, argument: &OsStr) -> Result<Cow<'_, [u8]>, Failure> {
        let bytes = argument.as_bytes();
        let (decoded, name) = match self {
            Self::Plain => return Ok(Cow::Borrowed(bytes)),
            Self::Hex => (HEXLOWER_PERMISSIVE.decode(bytes), "hexadecimal"),
            Self::Base64 => (BASE64.decode(bytes), "base64"),
        };
        match decoded {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(error) => Err(Failure::Usage(format!(
                "the key `{}` is not {name}: {error}",
                argument.display()
            ))),
        }
    }

    /// The text that stands for `bytes`.
    pub fn encode(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Plain => Cow::Borrowed(bytes),
            Self::Hex => Cow::Owned(HEXLOWER.encode(bytes).into_bytes()),
            Self::Base64 => Cow::Owned(BASE64.encode(bytes).into_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_or_refused_by_name() {
        let decode = |coding: Coding, text: &str| {
            let decoded = coding.decode(OsStr::new(text)).map(Cow::into_owned);
            decoded.map_err(|failure| format!("{failure:?}"))
        };
        assert_eq!(decode(Coding::Plain, "00"), Ok(b"00".to_vec()));
        assert_eq!(decode(Coding::Hex, "00fF"), Ok(vec![0, 255]));
        assert_eq!(decode(Coding::Base64, "AP8="), Ok(vec![0, 255]));
        assert_eq!(decode(Coding::Hex, ""), Ok(vec![]));
        for (coding, wrong) in [
            (Coding::Hex, "0"),
            (Coding::Hex, "zz"),
            (Coding::Base64, "AP8"),
        ] {
            let error = decode(coding, wrong).unwrap_err();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let every: Vec<u8> = (0..=255).collect();
        for coding in [Coding::Plain, Coding::Hex, Coding::Base64] {
            let text = coding.encode(&every);
            assert_eq!(
                &*coding.decode(OsStr::from_bytes(&text)).unwrap(),
                &every[..]
            );
        }
    }
}
