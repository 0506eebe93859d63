//! The label space as it stands in a file, so that labels outlive the process, and rests go on by the wall clock.
//!
//! ```text
//!   1, 2   one message: version, then all rows                                   (a label per attachment only)
//!   3      framed messages: the number of rows, then the rows, some at a time    (a message has a limit, a file has not)
//! ```
//! A frame starts with its length, below 2^24, so the first byte says which it is: 0 for version 3.

use super::{Entry, LabelSpace, LabelState, Owner};
use edgeplex_types::{
    AttachmentId, Label, Rd,
    wire::{self, Deframer, WireError},
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

const VERSION: u8 = 3;
/// Rows in one message.
const ROWS: usize = 1024;
/// The end of a rest that is not known.
const UNKNOWN: u64 = u64::MAX;

/// The last is when the label is free again, milliseconds since 1970, if it rests.
type Row<Id> = (Label, Id, Option<IpAddr>, Rd, Option<u64>);

impl LabelSpace {
    pub fn save(&self) -> Result<Vec<u8>, WireError> {
        let rows: Vec<Row<AttachmentId>> = self.rows().collect();
        let mut out = wire::encode_framed(VERSION, &rows.len())?;
        for some in rows.chunks(ROWS) {
            out.extend(wire::encode_framed(VERSION, &some)?);
        }
        Ok(out)
    }

    fn rows(&self) -> impl Iterator<Item = Row<AttachmentId>> {
        let end = |state| match state {
            LabelState::Active => None,
            LabelState::Quarantine(until) => Some(self.wall(until)),
        };
        self.entries.iter().map(move |(l, e)| (*l, e.owner.attachment.clone(), e.owner.next_hop, e.rd, end(e.state)))
    }

    /// Each label's row for itself, as one message of the file's version.
    pub fn values(&self) -> Result<BTreeMap<Label, Vec<u8>>, WireError> {
        self.rows().map(|row| Ok((row.0, wire::encode(VERSION, &row)?))).collect()
    }

    /// Takes back one of [`values`](Self::values), under the rules of [`load`](Self::load).
    pub fn load_value(&mut self, now: Instant, value: &[u8]) -> Result<(), WireError> {
        self.take(now, wire::decode(VERSION, value)?);
        Ok(())
    }

    fn wall(&self, at: Instant) -> u64 {
        let Some((now, wall)) = self.clock else { return UNKNOWN };
        let at = (wall + at.saturating_duration_since(now)).saturating_sub(now.saturating_duration_since(at));
        u64::try_from(at.as_millis()).unwrap_or(UNKNOWN)
    }

    /// Takes back what [`save`](Self::save) gave, today or in an earlier version. What rested then rests until the time that
    /// was stored, but never longer than a whole quarantine from now: the clock may have been set back, or the end not be known.
    pub fn load(&mut self, now: Instant, bytes: &[u8]) -> Result<(), WireError> {
        rows(bytes)?.into_iter().for_each(|row| self.take(now, row));
        Ok(())
    }

    fn take(&mut self, now: Instant, (label, attachment, next_hop, rd, rests): Row<AttachmentId>) {
        let owner = Owner { attachment, next_hop };
        let active = rests.is_none() && !label.is_reserved() && !self.held.contains_key(&owner);
        let rest = match (rests, self.clock) {
            (Some(end), Some(_)) => Duration::from_millis(end.saturating_sub(self.wall(now))).min(self.quarantine),
            _ => self.quarantine,
        };
        let state = if active { LabelState::Active } else { LabelState::Quarantine(now + rest) };
        if active && !self.entries.contains_key(&label) {
            self.held.insert(owner.clone(), label);
        }
        self.entries.entry(label).or_insert(Entry { owner, rd, state });
    }
}

fn rows(bytes: &[u8]) -> Result<Vec<Row<AttachmentId>>, WireError> {
    match bytes.first() {
        Some(1) => {
            let rows: Vec<(Label, AttachmentId, Rd, bool)> = wire::decode(1, bytes)?;
            Ok(rows.into_iter().map(|(label, id, rd, active)| (label, id, None, rd, (!active).then_some(UNKNOWN))).collect())
        }
        Some(2) => {
            let rows: Vec<(Label, AttachmentId, Rd, Option<u64>)> = wire::decode(2, bytes)?;
            Ok(rows.into_iter().map(|(label, id, rd, rests)| (label, id, None, rd, rests)).collect())
        }
        _ => framed(bytes),
    }
}

fn framed(bytes: &[u8]) -> Result<Vec<Row<AttachmentId>>, WireError> {
    let mut frames = Deframer::default();
    frames.push(bytes);
    let count: usize = frames.next(VERSION)?.ok_or(WireError::Empty)?;
    let mut rows = vec![];
    while let Some(some) = frames.next::<Vec<Row<AttachmentId>>>(VERSION)? {
        rows.extend(some);
    }
    if rows.len() == count { Ok(rows) } else { Err(WireError::Body(format!("{} rows of {count}", rows.len()))) }
}
