//! P-DATA fragments to whole messages; touches no socket.
//!
//! Comes in: bodies of P-DATA PDUs. Goes out: [`Message`], with its data set whole and within the limit.

use std::sync::Arc;

use super::budget::{Budget, Share};
use super::pdu::{COMMAND, LAST};
use crate::vocabulary::dicom::dimse::{InvalidCommand, Request};

/// A command set longer than this is no C-ECHO or C-STORE: both fit in 400 bytes.
const MAX_COMMAND: usize = 16_384;

/// A buffer larger than this is given back to the system after its instance rather than kept for the next one.
const MAX_SPARE: usize = 4_194_304;

/// A whole DIMSE message.
#[derive(Debug)]
pub(crate) struct Message {
    /// Presentation context on which it came.
    pub(crate) context: u8,
    /// The command.
    pub(crate) request: Request,
    /// The data set, in the transfer syntax of the context.
    pub(crate) data_set: DataSet,
}

/// What came after the command.
#[derive(Debug)]
pub(crate) enum DataSet {
    /// No data set belongs to the command.
    Absent,
    /// All of it, and its share of the memory.
    Whole(Vec<u8>, Share),
    /// More than the limit; read to its end and dropped.
    TooLong,
    /// All data sets in hand take too much memory together; read to its end and dropped.
    NoRoom,
}

/// Why fragments make no message. Each ends the association.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// A length that reaches beyond the PDU, or is less than its own header.
    #[error("a presentation data value of {length} bytes does not fit into its PDU")]
    Length {
        /// Length given, bytes.
        length: u32,
    },
    /// A context that was not accepted.
    #[error("presentation context {0} was not accepted")]
    UnknownContext(u8),
    /// A command where a data set was due, the other way round, or another context in the middle.
    #[error("a fragment came that does not belong to the message in hand")]
    OutOfOrder,
    /// The command set is too long.
    #[error("the command set is longer than {MAX_COMMAND} bytes")]
    CommandTooLong,
    /// The command set cannot be answered.
    #[error("the command set cannot be read")]
    Command(#[source] InvalidCommand),
}

/// Puts messages together.
#[derive(Debug)]
pub(crate) struct Receiver {
    accepted: Vec<u8>,
    max_data_set: usize,
    budget: Arc<Budget>,
    state: State,
    spare: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Idle,
    Command { context: u8, bytes: Vec<u8> },
    DataSet { context: u8, request: Request, data_set: DataSet },
}

impl Receiver {
    /// A receiver for these accepted contexts; longer data sets than `max_data_set` bytes, and those for which the
    /// budget has nothing left, are dropped as they come.
    pub(crate) fn new(accepted: Vec<u8>, max_data_set: usize, budget: Arc<Budget>) -> Self {
        Self { accepted, max_data_set, budget, state: State::Idle, spare: Vec::new() }
    }

    /// Takes the body of a P-DATA PDU and gives the messages that it completes.
    pub(crate) fn take(&mut self, mut body: &[u8]) -> Result<Vec<Message>, FragmentError> {
        let mut messages = Vec::new();
        while !body.is_empty() {
            let fragment;
            (fragment, body) = split_fragment(body)?;
            if !self.accepted.contains(&fragment.context) {
                return Err(FragmentError::UnknownContext(fragment.context));
            }
            messages.extend(self.fragment(fragment.context, fragment.control, fragment.bytes)?);
        }
        Ok(messages)
    }

    /// Whether no message is in hand.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Takes a buffer back, so that the next data set needs no new memory.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = if buffer.capacity() <= MAX_SPARE { buffer } else { Vec::new() };
    }

    fn fragment(&mut self, context: u8, control: u8, part: &[u8]) -> Result<Option<Message>, FragmentError> {
        let (is_command, is_last) = (control & COMMAND != 0, control & LAST != 0);
        let state = std::mem::replace(&mut self.state, State::Idle);
        match state {
            State::Idle if is_command => self.command(context, Vec::new(), part, is_last),
            State::Command { context: due, bytes } if is_command && due == context => {
                self.command(context, bytes, part, is_last)
            }
            State::DataSet { context: due, request, data_set } if !is_command && due == context => {
                let data_set = data_set.with(part, self.max_data_set);
                if !is_last {
                    self.state = State::DataSet { context, request, data_set };
                    return Ok(None);
                }
                Ok(Some(Message { context, request, data_set }))
            }
            _ => Err(FragmentError::OutOfOrder),
        }
    }

    fn command(
        &mut self,
        context: u8,
        mut bytes: Vec<u8>,
        part: &[u8],
        is_last: bool,
    ) -> Result<Option<Message>, FragmentError> {
        if bytes.len() + part.len() > MAX_COMMAND {
            return Err(FragmentError::CommandTooLong);
        }
        bytes.extend_from_slice(part);
        if !is_last {
            self.state = State::Command { context, bytes };
            return Ok(None);
        }
        let request = Request::parse(&bytes).map_err(FragmentError::Command)?;
        if !request.data_set_follows() {
            return Ok(Some(Message { context, request, data_set: DataSet::Absent }));
        }
        let data_set = DataSet::Whole(std::mem::take(&mut self.spare), self.budget.share());
        self.state = State::DataSet { context, request, data_set };
        Ok(None)
    }
}

impl DataSet {
    fn with(self, part: &[u8], max_bytes: usize) -> Self {
        match self {
            Self::Whole(bytes, _) if bytes.len() + part.len() > max_bytes => Self::TooLong,
            Self::Whole(mut bytes, mut share) => {
                if !share.grow(part.len()) {
                    return Self::NoRoom;
                }
                bytes.extend_from_slice(part);
                Self::Whole(bytes, share)
            }
            dropped => dropped,
        }
    }
}

/// One presentation data value (PS3.8 9.3.5.1, E.2).
#[derive(Debug)]
pub(crate) struct Fragment<'a> {
    /// Presentation context.
    pub(crate) context: u8,
    /// Message control header.
    pub(crate) control: u8,
    /// The fragment.
    pub(crate) bytes: &'a [u8],
}

/// The first fragment in the body of a P-DATA PDU, and what comes after it.
pub(crate) fn split_fragment(body: &[u8]) -> Result<(Fragment<'_>, &[u8]), FragmentError> {
    let Some((length, rest)) = body.split_first_chunk::<4>() else {
        return Err(FragmentError::Length { length: 0 });
    };
    let length = u32::from_be_bytes(*length);
    let value = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some(([context, control, bytes @ ..], rest)) = value else {
        return Err(FragmentError::Length { length });
    };
    Ok((Fragment { context: *context, control: *control, bytes }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::dicom::dimse::{echo_request, store_request};
    use crate::vocabulary::dicom::{SopClassUid, SopInstanceUid};

    fn pdv(context: u8, control: u8, fragment: &[u8]) -> Vec<u8> {
        let length = u32::try_from(fragment.len() + 2).unwrap();
        [&length.to_be_bytes()[..], &[context, control], fragment].concat()
    }

    fn receiver(context: u8, max_data_set: usize) -> Receiver {
        Receiver::new(vec![context], max_data_set, Budget::new(1 << 20))
    }

    fn store() -> Vec<u8> {
        store_request(3, &SopClassUid::parse("1.2").unwrap(), &SopInstanceUid::parse("1.2.9").unwrap())
    }

    #[test]
    fn fragments_of_any_size_make_the_same_message() {
        let (command, data_set) = (store(), (0..97).collect::<Vec<u8>>());
        for size in [1, 7, 96, 97, 200] {
            let mut receiver = receiver(5, 97);
            let mut messages = Vec::new();
            for (bytes, flag) in [(&command, COMMAND), (&data_set, 0)] {
                let n = bytes.len().div_ceil(size);
                for (index, part) in bytes.chunks(size).enumerate() {
                    let control = flag | if index + 1 == n { LAST } else { 0 };
                    messages.extend(receiver.take(&pdv(5, control, part)).unwrap());
                }
            }
            assert_eq!(messages.len(), 1, "fragments of {size}");
            let DataSet::Whole(bytes, _) = &messages[0].data_set else { panic!("{messages:?}") };
            assert_eq!(*bytes, data_set);
        }
    }

    #[test]
    fn two_echoes_in_one_pdu_are_two_messages() {
        let body = [pdv(1, 3, &echo_request(1)), pdv(1, 3, &echo_request(2))].concat();
        assert_eq!(receiver(1, 0).take(&body).unwrap().len(), 2);
    }

    #[test]
    fn what_breaks_the_rules_is_an_error_and_what_is_too_long_is_dropped() {
        let fresh = || receiver(1, 10);
        assert_eq!(fresh().take(&pdv(3, 3, &store())).unwrap_err(), FragmentError::UnknownContext(3));
        assert_eq!(fresh().take(&pdv(1, LAST, b"xy")).unwrap_err(), FragmentError::OutOfOrder);
        assert_eq!(
            fresh().take(&[255, 255, 255, 255, 1, 3]).unwrap_err(),
            FragmentError::Length { length: u32::MAX }
        );
        assert_eq!(fresh().take(&[0, 0, 0, 1, 1, 3]).unwrap_err(), FragmentError::Length { length: 1 });
        let mut receiver = fresh();
        assert!(receiver.take(&pdv(1, 3, &store())).unwrap().is_empty());
        assert!(receiver.take(&pdv(1, 0, &[7; 11])).unwrap().is_empty());
        assert!(matches!(receiver.take(&pdv(1, LAST, &[7; 5])).unwrap()[0].data_set, DataSet::TooLong));
    }

    #[test]
    fn data_sets_that_together_take_too_much_memory_are_dropped_and_the_next_one_fits_again() {
        let budget = Budget::new(10);
        let receiver = || Receiver::new(vec![1], 10, Arc::clone(&budget));
        let (mut first, mut second) = (receiver(), receiver());
        for receiver in [&mut first, &mut second] {
            assert!(receiver.take(&pdv(1, 3, &store())).unwrap().is_empty());
            assert!(receiver.take(&pdv(1, 0, &[7; 6])).unwrap().is_empty());
        }
        let (first, second) =
            (first.take(&pdv(1, LAST, &[7])).unwrap(), second.take(&pdv(1, LAST, &[7])).unwrap());
        assert!(matches!(first[0].data_set, DataSet::Whole(..)), "{first:?}");
        assert!(matches!(second[0].data_set, DataSet::NoRoom), "{second:?}");
        drop(first);
        let mut third = receiver();
        third.take(&pdv(1, 3, &store())).unwrap();
        assert!(matches!(third.take(&pdv(1, LAST, &[7; 10])).unwrap()[0].data_set, DataSet::Whole(..)));
    }
}
