//! Random operations, weighted towards what has broken stores of this kind before: overwriting and
//! removing few keys, compacting, rotating, stopping in all manners.

use kvs::Durability;
use kvs::testing::sim::{Contents, Effect, Errno, Fault, Survive};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use crate::op::{Fill, Harm, How, Level, Only, Op, Span, Strike, ValueSpec, Wound};
use crate::runner::Setup;

fn key_id() -> impl Strategy<Value = u8> {
    prop_oneof![
        20 => 1u8..8,
        10 => 0u8..28,
        2 => 28u8..30,
        1 => 30u8..32,
    ]
}

fn value() -> impl Strategy<Value = ValueSpec> {
    let len = prop_oneof![
        12 => 0u32..200,
        4 => 200u32..3_000,
        2 => 3_000u32..20_000,
    ];
    let fill = prop_oneof![
        10 => Just(Fill::Unique),
        1 => Just(Fill::Zero),
        1 => Just(Fill::Number),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(file, from)| Fill::Forged { file, from }),
    ];
    let common = (len, fill).prop_map(|(len, fill)| ValueSpec { len, fill });
    let huge = Just(ValueSpec {
        len: 70_000,
        fill: Fill::Unique,
    });
    prop_oneof![80 => common, 1 => huge]
}

fn survive() -> impl Strategy<Value = Survive> {
    let contents = prop_oneof![Just(Contents::Synced), Just(Contents::Latest)];
    prop_oneof![
        1 => Just(Survive::SyncedOnly),
        1 => Just(Survive::Everything),
        4 => any::<u16>().prop_map(|seed| Survive::Mix { seed: u64::from(seed) }),
        2 => (any::<u64>(), contents).prop_map(|(mask, contents)| Survive::Names { mask, contents }),
    ]
}

fn strike() -> impl Strategy<Value = Strike> {
    let errno = prop_oneof![Just(Errno::IO), Just(Errno::NOSPC)];
    let effect = prop_oneof![Just(Effect::None), Just(Effect::Half), Just(Effect::Whole)];
    (0u16..96, errno, effect, any::<bool>()).prop_map(|(k, errno, effect, forever)| {
        let fault = match forever {
            true => Fault::forever(errno),
            false => Fault::once(errno),
        };
        Strike {
            k,
            fault: fault.after(effect),
        }
    })
}

fn wound() -> impl Strategy<Value = Wound> {
    let harm = prop_oneof![
        8 => (0u8..8).prop_map(|bit| Harm::Flip { bit }),
        3 => (1u16..600).prop_map(|len| Harm::Zero { len }),
        3 => Just(Harm::Cut),
        1 => Just(Harm::Delete),
    ];
    (any::<u8>(), any::<u16>(), harm).prop_map(|(file, at, harm)| Wound { file, at, harm })
}

fn how() -> impl Strategy<Value = How> {
    let maybe = || weighted(0.8, value());
    let swap = (any::<bool>(), maybe()).prop_map(|(equal, new)| How::Swap { equal, new });
    prop_oneof![
        3 => value().prop_map(How::IfAbsent),
        3 => swap,
        3 => maybe().prop_map(How::Replace),
        1 => Just(How::Keep),
        1 => (-5i64..100).prop_map(How::Add),
    ]
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![
        Just(Level::Os),
        Just(Level::Short),
        Just(Level::Long),
        Just(Level::Sync),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let set = (key_id(), value()).prop_map(|(key, value)| Op::Set { key, value });
    let expiring = (key_id(), value(), any::<bool>())
        .prop_map(|(key, value, past)| Op::SetExpiring { key, value, past });
    let span = || {
        prop_oneof![
            1 => Just(Span::Default),
            1 => Just(Span::Never),
            2 => Just(Span::Keep),
            4 => (0u16..150).prop_map(Span::In),
        ]
    };
    let only = prop_oneof![
        3 => Just(Only::Always),
        1 => Just(Only::Absent),
        1 => Just(Only::Present),
    ];
    let set_with =
        (key_id(), value(), span(), only).prop_map(|(key, value, span, only)| Op::SetWith {
            key,
            value,
            span,
            only,
        });
    let expire = (key_id(), weighted(0.8, 0u16..150)).prop_map(|(key, ms)| Op::Expire { key, ms });
    let expiring_batch = vec((key_id(), value(), 0u16..150), 1..4).prop_map(Op::BatchExpiring);
    let one = (key_id(), weighted(0.7, value()));
    let update = (key_id(), how()).prop_map(|(key, how)| Op::Update { key, how });
    // Mostly of keys that little else is done to.
    let add = (20u8..24, -5i64..100).prop_map(|(key, by)| Op::Update {
        key,
        how: How::Add(by),
    });
    prop_oneof![
        60 => set,
        20 => update,
        8 => add,
        5 => level().prop_map(Op::At),
        12 => (0u8..60).prop_map(|ms| Op::Wait { ms }),
        2 => Just(Op::ReadAll),
        6 => any::<u8>().prop_map(|slot| Op::Snapshot { slot }),
        6 => any::<u8>().prop_map(|slot| Op::ReadSnapshot { slot }),
        3 => any::<u8>().prop_map(|slot| Op::DropSnapshot { slot }),
        24 => (0u8..6, any::<bool>()).prop_map(|(count, pairs)| Op::Scan { count, pairs }),
        4 => expiring,
        16 => set_with,
        12 => expire,
        3 => expiring_batch,
        3 => (0u16..200).prop_map(|ms| Op::ClockBack { ms }),
        24 => key_id().prop_map(|key| Op::Remove { key }),
        14 => vec(one, 0..6).prop_map(Op::Batch),
        6 => vec((key_id(), value()), 0..12).prop_map(Op::Load),
        4 => vec((key_id(), value(), weighted(0.8, 0u16..150)), 0..12).prop_map(Op::LoadExpiring),
        10 => Just(Op::Flush),
        8 => Just(Op::Rotate),
        4 => Just(Op::Compact),
        8 => any::<u8>().prop_map(|mask| Op::CompactSome { mask }),
        2 => Just(Op::Check),
        6 => Just(Op::Reopen),
        4 => Just(Op::Kill),
        8 => (0u16..200, survive()).prop_map(|(back, survive)| Op::Crash { back, survive }),
        2 => any::<u8>().prop_map(|which| Op::DropHint { which }),
        2 => (any::<u8>(), any::<u16>(), 0u8..8)
            .prop_map(|(which, at, bit)| Op::DamageHint { which, at, bit }),
        3 => (any::<bool>(), prop_oneof![4 => vec(wound(), 1), 1 => vec(wound(), 2..4)])
            .prop_map(|(closed, wounds)| Op::Damage { closed, wounds }),
        4 => strike().prop_map(Op::Fail),
    ]
}

/// That many operations.
pub fn ops(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), count)
}

/// How to open the store they are done to.
pub fn setup(durability: Durability) -> impl Strategy<Value = Setup> {
    (any::<bool>(), 0u64..1 << 20).prop_map(move |(write_path, seed)| Setup {
        durability,
        write_path,
        seed,
    })
}
