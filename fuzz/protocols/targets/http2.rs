//! Frames of HTTP/2, and blocks of fields one behind the other.

use mirror_protocols::Direction;
use mirror_protocols::http2::{FieldList, Head, Table, begins, resumes, settings, unpadded};

const BUDGET: usize = 16 * 1024;

pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = (begins(Direction::ToServer, bytes), begins(Direction::ToClient, bytes), resumes(bytes));
    if let Some(head) = Head::read(bytes) {
        let _ = (head.is_correct(), unpadded(head, bytes), settings(bytes).count());
    }
    let (mut table, mut list) = (Table::default(), FieldList::default());
    let mut rest = bytes;
    while let Some((&len, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        list.clear();
        let mut budget = BUDGET;
        if table.read(block, &mut budget, &mut list).is_err() {
            table.lose();
        }
        let taken: usize = list.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert_eq!(taken + budget, BUDGET, "what is returned is taken from the budget");
        assert!(table.room() <= 512 * 1024, "a table keeps to its size");
    }
}
