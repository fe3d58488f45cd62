//! How many parts a message has, counted as it comes in.
//!
//! An element of a repeated field may have two bytes on the wire and a hundred once decoded, so a
//! message well within its size can take fifty times as much. Handlers refuse too many, but they see
//! them decoded. So the elements are counted in passing, before the message is whole; one too many
//! ends it. Only lengths and tags are looked at, nothing is copied, and what is no protobuf is
//! refused here as it would be by the decoder.

/// The repeated fields of one kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Field numbers from the message down to the repeated field.
    pub(super) paths: &'static [&'static [u32]],
    /// Elements of all of them together, at most.
    pub(super) max: usize,
    /// What one element takes once decoded, besides its payload.
    pub(super) decoded_bytes: usize,
    /// Name of the field, for errors.
    pub(super) field: &'static str,
}

/// One message as far as it has come.
#[derive(Debug)]
pub(super) struct Count {
    counted: Counted,
    /// Elements so far.
    elements: usize,
    at: u64,
    /// Where the message and the fields that were entered end.
    ends: Vec<u64>,
    /// Fields that were entered.
    path: Vec<u32>,
    state: State,
    varint: u64,
    varint_bits: u32,
}

/// Why a message goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uncounted {
    TooMany,
    Malformed,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Tag,
    Length(u32),
    Varint,
    Skip(u64),
}

// === impl Count ===

impl Count {
    /// Of a message of `bytes`.
    pub(super) fn new(counted: Counted, bytes: usize) -> Self {
        Self {
            counted,
            elements: 0,
            at: 0,
            ends: vec![bytes as u64],
            path: Vec::new(),
            state: State::Tag,
            varint: 0,
            varint_bits: 0,
        }
    }

    /// Elements so far.
    pub(super) fn elements(&self) -> usize {
        self.elements
    }

    /// Looks at the next bytes of the message.
    pub(super) fn see(&mut self, mut data: &[u8]) -> Result<(), Uncounted> {
        while let Some((&byte, rest)) = data.split_first() {
            if let State::Skip(left) = self.state {
                let step = left.min(data.len() as u64);
                self.at += step;
                data = &data[usize::try_from(step).unwrap_or(data.len())..];
                self.state = State::Skip(left - step);
                if left == step {
                    self.element_over();
                }
                continue;
            }
            data = rest;
            self.at += 1;
            if let Some(value) = self.varint(byte)? {
                self.take(value)?;
            }
        }
        Ok(())
    }

    fn varint(&mut self, byte: u8) -> Result<Option<u64>, Uncounted> {
        if self.varint_bits >= 64 {
            return Err(Uncounted::Malformed);
        }
        self.varint |= u64::from(byte & 0x7f) << self.varint_bits;
        self.varint_bits += 7;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        self.varint_bits = 0;
        Ok(Some(std::mem::take(&mut self.varint)))
    }

    fn take(&mut self, value: u64) -> Result<(), Uncounted> {
        match self.state {
            State::Tag => {
                let field = u32::try_from(value >> 3).map_err(|_| Uncounted::Malformed)?;
                match value & 7 {
                    0 => self.state = State::Varint,
                    1 => self.skip(8)?,
                    2 => self.state = State::Length(field),
                    5 => self.skip(4)?,
                    // Groups: nothing of ours has had any.
                    _ => return Err(Uncounted::Malformed),
                }
            }
            State::Length(field) => self.enter(field, value)?,
            State::Varint | State::Skip(_) => self.element_over(),
        }
        Ok(())
    }

    fn enter(&mut self, field: u32, bytes: u64) -> Result<(), Uncounted> {
        self.path.push(field);
        let here = self.path.as_slice();
        let counted = self.counted.paths.contains(&here);
        let leads_on =
            self.counted.paths.iter().any(|path| path.len() > here.len() && path.starts_with(here));
        if counted {
            self.elements += 1;
            if self.elements > self.counted.max {
                return Err(Uncounted::TooMany);
            }
        }
        if leads_on && bytes > 0 {
            let end = self.fits(bytes)?;
            self.ends.push(end);
            self.state = State::Tag;
            return Ok(());
        }
        self.path.pop();
        self.skip(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Uncounted> {
        self.fits(bytes)?;
        match bytes {
            0 => self.element_over(),
            _ => self.state = State::Skip(bytes),
        }
        Ok(())
    }

    /// Where so many bytes end, if what they are in does not end before.
    fn fits(&self, bytes: u64) -> Result<u64, Uncounted> {
        let end = self.at.checked_add(bytes).ok_or(Uncounted::Malformed)?;
        match self.ends.last() {
            Some(last) if end <= *last => Ok(end),
            _ => Err(Uncounted::Malformed),
        }
    }

    fn element_over(&mut self) {
        self.state = State::Tag;
        while self.ends.len() > 1 && self.ends.last().is_some_and(|end| *end <= self.at) {
            self.ends.pop();
            self.path.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;
    use riverrun_proto::rpc::v1;
    use v1::produce_stream_request::Request;

    use super::*;

    const APPENDS: Counted =
        Counted { paths: &[&[2, 1]], max: 100, decoded_bytes: 96, field: "appends.items" };

    fn appends(batches: &[usize]) -> Vec<u8> {
        let items = batches.iter().map(|bytes| v1::ProduceStreamAppend {
            correlation_id: *bytes as u64,
            partition: 3,
            batch: Bytes::from(vec![0xff; *bytes]),
            ..Default::default()
        });
        let appends = v1::ProduceStreamAppends { items: items.collect() };
        let request = v1::ProduceStreamRequest { request: Some(Request::Appends(appends)) };
        request.encode_to_vec()
    }

    fn count(counted: Counted, message: &[u8]) -> Result<usize, Uncounted> {
        let mut count = Count::new(counted, message.len());
        count.see(message)?;
        Ok(count.elements())
    }

    #[test]
    fn one_too_many_is_refused_where_it_begins() {
        assert_eq!(count(APPENDS, &appends(&[5; 100])), Ok(100));
        assert_eq!(count(APPENDS, &appends(&[5; 101])), Err(Uncounted::TooMany));
        // The cheapest: two bytes each, and 64 Ki of them.
        let mut empty = vec![0x12, 0x80, 0x80, 0x08];
        empty.extend([0x0a, 0x00].repeat(64 << 10));
        let mut counting = Count::new(APPENDS, empty.len());
        assert_eq!(counting.see(&empty[..4 + 200]), Ok(()));
        assert_eq!(counting.see(&empty[204..206]), Err(Uncounted::TooMany));
    }

    #[test]
    fn a_field_that_comes_twice_is_counted_twice_as_it_is_merged() {
        let twice = [appends(&[1; 60]), appends(&[1; 60])].concat();
        assert_eq!(count(APPENDS, &twice), Err(Uncounted::TooMany));
        let merged = v1::ProduceStreamRequest::decode(twice.as_slice()).unwrap();
        let Some(Request::Appends(merged)) = merged.request else { panic!("{merged:?}") };
        assert_eq!(merged.items.len(), 120, "the decoder does merge them");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &[0x12, 0x05, 0x0a, 0x00][..],
            &[0x12, 0x02, 0x0a, 0x01],
            &[0x0b, 0x0c],
            &[0xff; 12],
            &[0x09, 0x00],
        ] {
            assert_eq!(count(APPENDS, bytes), Err(Uncounted::Malformed), "{bytes:x?}");
            assert!(v1::ProduceStreamRequest::decode(bytes).is_err() || bytes[0] == 0x0b);
        }
    }

    proptest! {
        /// However the message is cut into frames, and whatever the batches hold.
        #[test]
        fn every_element_is_counted_once(
            batches in prop::collection::vec(0usize..300, 0..100),
            cuts in prop::collection::vec(1usize..50, 1..20),
        ) {
            let message = appends(&batches);
            let mut count = Count::new(APPENDS, message.len());
            let (mut rest, mut cuts) = (message.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let cut = cuts.next().unwrap().min(rest.len());
                prop_assert_eq!(count.see(&rest[..cut]), Ok(()));
                rest = &rest[cut..];
            }
            prop_assert_eq!(count.elements(), batches.len());
        }

        /// Random bytes are refused or counted, never a panic; what decodes is never undercounted.
        #[test]
        fn no_bytes_pass_uncounted(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let counted = count(Counted { max: usize::MAX, ..APPENDS }, &bytes);
            if let Ok(v1::ProduceStreamRequest { request: Some(Request::Appends(appends)) }) =
                v1::ProduceStreamRequest::decode(bytes.as_slice())
            {
                prop_assert!(counted.unwrap_or(usize::MAX) >= appends.items.len());
            }
        }
    }
}
