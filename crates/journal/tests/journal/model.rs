//! A journal and a plain list, in lockstep.

use journal::files::Cut;
use proptest::prelude::*;

use super::harness::{Op, Run};

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![8 => 0..200_usize, 3 => 0..3_000_usize, 1 => 0..30_000_usize];
    let cut = prop_oneof![
        Just(Cut::Everything),
        Just(Cut::Nothing),
        any::<u64>().prop_map(Cut::Any),
    ];
    prop_oneof![
        20 => (length, any::<bool>()).prop_map(|(length, is_awaited)| Op::Append { length, is_awaited }),
        12 => Just(Op::Turn),
        2 => Just(Op::Flush),
        2 => (0..3_u32).prop_map(Op::RemoveBefore),
        1 => Just(Op::Reopen),
        1 => cut.prop_map(Op::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_journal_does_as_a_list_would(ops in prop::collection::vec(op(), 1..150)) {
        let mut run = Run::new(0);
        run.open().unwrap();
        for op in ops {
            run.apply(op);
            run.verify(false);
        }
        while run.journal().turn() {}
        run.verify(false);
        run.crash(Cut::Nothing);
    }
}
