//! The few pickle opcodes that a saved state dict consists of; nothing is ever called.
//!
//! A pickle is a program. This machine knows dictionaries, lists, tuples, numbers and texts, and three functions by name,
//! which rebuild tensors: it writes down what they would rebuild. Any other opcode or name is refused with its offset.
//! Values lie in one list and refer to each other by number, so nothing recurses and nothing is copied.
//! Source of the opcodes: Python's `pickletools`; of the functions: PyTorch's serialization notes.

use std::collections::BTreeMap;
use std::io::Read;

/// No pickle is longer, in bytes: a state dict of 370 tensors with its optimizer takes a tenth.
pub(super) const LONGEST: u64 = 1 << 20;
/// No pickle makes more values: a tensor takes some 25, and a checkpoint with its optimizer has a thousand tensors.
const MOST_VALUES: usize = 100_000;
/// No name of a function or a storage is longer, bytes.
const LONGEST_NAME: usize = 200;
/// No tensor has more sides.
const MOST_SIDES: usize = 8;

/// The number of a value.
pub(super) type Id = usize;

/// What a pickle can hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// None, a truth value, or a float: never needed.
    Other,
    Int(i64),
    /// A whole number of more than eight bytes, little endian.
    Long(Vec<u8>),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(Known),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
}

/// The names that a pickle may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Elements(ElementType),
}

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the upper half of an `F32`.
    BF16,
    /// 32 bits.
    F32,
    /// 64 bits.
    F64,
    /// Whole numbers or truth values of so many bytes: counters, never weights.
    Whole(usize),
}

impl ElementType {
    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Whole(bytes) => bytes,
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F16 => f.write_str("f16"),
            Self::BF16 => f.write_str("bf16"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Whole(bytes) => write!(f, "int{}", 8 * bytes),
        }
    }
}

/// Numbers one after the other, elsewhere in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) elements: ElementType,
    pub(super) count: u64,
}

/// A part of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    /// The value that is its storage.
    pub(super) storage: Id,
    pub(super) start: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

/// Why a pickle is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// Byte of the opcode, from the pickle's start.
    pub(super) offset: u64,
    /// The opcode.
    pub(super) opcode: u8,
    /// What about it.
    pub(super) why: String,
}

/// Everything that one pickle made.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    /// What it is a pickle of.
    pub(super) top: Id,
    /// Its length, bytes.
    pub(super) length: u64,
}

struct Machine<R> {
    source: R,
    offset: u64,
    opcode: u8,
    opcode_at: u64,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
}

/// Reads one pickle.
pub(super) fn read(source: impl Read) -> Result<Pickle, Refused> {
    let mut machine = Machine {
        source,
        offset: 0,
        opcode: 0,
        opcode_at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    loop {
        machine.opcode_at = machine.offset;
        machine.opcode = machine.byte()?;
        if machine.opcode == b'.' {
            let top = machine.pop()?;
            return Ok(Pickle { values: machine.values, top, length: machine.offset });
        }
        machine.step()?;
        if machine.values.len().max(machine.memo.len()) > MOST_VALUES {
            return machine.refuse(format!("makes more than {MOST_VALUES} values"));
        }
    }
}

impl<R: Read> Machine<R> {
    fn refuse<T>(&self, why: impl Into<String>) -> Result<T, Refused> {
        Err(Refused { offset: self.opcode_at, opcode: self.opcode, why: why.into() })
    }

    fn step(&mut self) -> Result<(), Refused> {
        match self.opcode {
            0x80 => match self.byte()? {
                2..=4 => {}
                other => return self.refuse(format!("is of protocol {other}, 2 to 4 are read")),
            },
            0x95 => drop(self.fixed::<8>()?),
            b'}' => self.push(Value::Dict(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'G' => {
                self.fixed::<8>()?;
                self.push(Value::Other);
            }
            b'J' => {
                let number = i32::from_le_bytes(self.fixed()?);
                self.push(Value::Int(number.into()));
            }
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.fixed()?);
                self.push(Value::Int(number.into()));
            }
            0x8a => self.long()?,
            b'X' => {
                let length = u32::from_le_bytes(self.fixed()?).into();
                self.text(length)?;
            }
            0x8c | b'U' => {
                let length = self.byte()?.into();
                self.text(length)?;
            }
            b'T' => {
                let length = u32::from_le_bytes(self.fixed()?).into();
                self.text(length)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b't' => {
                let parts = self.since_mark()?;
                self.push(Value::Tuple(parts));
            }
            0x85..=0x87 => {
                let count = usize::from(self.opcode - 0x84);
                let parts = self.top(count)?;
                self.push(Value::Tuple(parts));
            }
            b'a' | b'e' => {
                let parts = if self.opcode == b'a' { self.top(1)? } else { self.since_mark()? };
                let list = self.peek()?;
                let Value::List(all) = &mut self.values[list] else {
                    return self.refuse("appends to what is no list");
                };
                all.extend(parts);
            }
            b's' | b'u' => {
                let parts = if self.opcode == b's' { self.top(2)? } else { self.since_mark()? };
                let dict = self.peek()?;
                let (pairs, left) = parts.as_chunks::<2>();
                let Value::Dict(all) = &mut self.values[dict] else {
                    return self.refuse("sets items of what is no dictionary");
                };
                all.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                if !left.is_empty() {
                    return self.refuse("sets a key without a value");
                }
            }
            b'q' => {
                let number = self.byte()?.into();
                self.remember(number)?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.fixed()?).into();
                self.remember(number)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let number = self.byte()?.into();
                self.recall(number)?;
            }
            b'j' => {
                let number = u32::from_le_bytes(self.fixed()?).into();
                self.recall(number)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(&module, &name)?;
            }
            0x93 => {
                let parts = self.top(2)?;
                let (module, name) = (self.text_of(parts[0])?, self.text_of(parts[1])?);
                self.name(&module, &name)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => {
                // The state of a dictionary: versions of its modules. It says nothing about numbers.
                self.pop()?;
                let target = self.peek()?;
                if !matches!(self.values[target], Value::Dict(_)) {
                    return self.refuse("sets the state of something other than a dictionary");
                }
            }
            _ => return self.refuse("is none that a state dict needs"),
        }
        Ok(())
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let mut bytes = [0; N];
        if self.offset + N as u64 > LONGEST {
            return self.refuse(format!("goes beyond {LONGEST} bytes"));
        }
        match self.source.read_exact(&mut bytes) {
            Ok(()) => {
                self.offset += N as u64;
                Ok(bytes)
            }
            Err(error) => self.refuse(format!("cannot be read on: {error}")),
        }
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        Ok(self.fixed::<1>()?[0])
    }

    fn line(&mut self) -> Result<String, Refused> {
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&text).into_owned()),
                _ if text.len() == LONGEST_NAME => {
                    return self.refuse(format!("names something of over {LONGEST_NAME} bytes"));
                }
                byte => text.push(byte),
            }
        }
    }

    fn text(&mut self, length: u64) -> Result<(), Refused> {
        if self.offset + length > LONGEST {
            return self.refuse(format!("holds a text of {length} bytes"));
        }
        let mut bytes = Vec::new();
        match self.source.by_ref().take(length).read_to_end(&mut bytes) {
            Ok(found) if found as u64 == length => {}
            Ok(_) => return self.refuse("holds a text that is cut short"),
            Err(error) => return self.refuse(format!("cannot be read on: {error}")),
        }
        self.offset += length;
        match String::from_utf8(bytes) {
            Ok(text) => {
                self.push(Value::Text(text));
                Ok(())
            }
            Err(_bytes) => self.refuse("holds a text that is no UTF-8"),
        }
    }

    fn long(&mut self) -> Result<(), Refused> {
        let length = self.byte()?;
        let mut bytes = Vec::new();
        for _ in 0..length {
            bytes.push(self.byte()?);
        }
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        if bytes.len() > 8 {
            self.push(Value::Long(bytes));
        } else {
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..bytes.len()].copy_from_slice(&bytes);
            self.push(Value::Int(i64::from_le_bytes(wide)));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, Refused> {
        Ok(self.top(1)?[0])
    }

    fn peek(&self) -> Result<Id, Refused> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => Ok(*id),
            _ => self.refuse("finds nothing on the stack"),
        }
    }

    fn top(&mut self, count: usize) -> Result<Vec<Id>, Refused> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => self.refuse("finds too little on the stack"),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, Refused> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => self.refuse("finds no mark"),
        }
    }

    fn remember(&mut self, number: u64) -> Result<(), Refused> {
        let id = self.peek()?;
        self.memo.insert(number, id);
        Ok(())
    }

    fn recall(&mut self, number: u64) -> Result<(), Refused> {
        match self.memo.get(&number) {
            Some(id) => {
                self.stack.push(*id);
                Ok(())
            }
            None => self.refuse(format!("recalls {number}, which was never kept")),
        }
    }

    fn text_of(&self, id: Id) -> Result<String, Refused> {
        match &self.values[id] {
            Value::Text(text) if text.len() <= LONGEST_NAME => Ok(text.clone()),
            _ => self.refuse(format!("needs a text of at most {LONGEST_NAME} bytes")),
        }
    }

    fn name(&mut self, module: &str, name: &str) -> Result<(), Refused> {
        use ElementType::{BF16, F16, F32, F64, Whole};
        let known = match (module, name) {
            ("collections", "OrderedDict") => Known::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Known::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Known::RebuildParameter,
            ("torch", "Size") => Known::Size,
            ("torch", "HalfStorage") => Known::Elements(F16),
            ("torch", "BFloat16Storage") => Known::Elements(BF16),
            ("torch", "FloatStorage") => Known::Elements(F32),
            ("torch", "DoubleStorage") => Known::Elements(F64),
            ("torch", "LongStorage") => Known::Elements(Whole(8)),
            ("torch", "IntStorage") => Known::Elements(Whole(4)),
            ("torch", "ShortStorage") => Known::Elements(Whole(2)),
            ("torch", "CharStorage" | "ByteStorage" | "BoolStorage") => Known::Elements(Whole(1)),
            _ => return self.refuse(format!("names {module}.{name}, which no state dict needs")),
        };
        self.push(Value::Name(known));
        Ok(())
    }

    /// `('storage', type, key, place, count)`, in old files with a sixth part, the view, which is always empty.
    fn storage(&mut self) -> Result<(), Refused> {
        let id = self.pop()?;
        let Value::Tuple(parts) = &self.values[id] else { return self.refuse("needs a tuple") };
        let value = |at: usize| parts.get(at).map(|id| &self.values[*id]);
        let plain = matches!(value(0), Some(Value::Text(kind)) if kind == "storage")
            && matches!(value(5), None | Some(Value::Other));
        let found = match (value(1), value(2), value(4)) {
            (
                Some(Value::Name(Known::Elements(elements))),
                Some(Value::Text(key)),
                Some(Value::Int(count)),
            ) if plain && key.len() <= LONGEST_NAME => u64::try_from(*count).ok().map(|count| Storage {
                key: key.clone(),
                elements: *elements,
                count,
            }),
            _ => None,
        };
        match found {
            Some(storage) => {
                self.push(Value::Storage(Box::new(storage)));
                Ok(())
            }
            None => self.refuse("describes no storage of numbers"),
        }
    }

    fn reduce(&mut self) -> Result<(), Refused> {
        let parts = self.top(2)?;
        let Value::Name(known) = self.values[parts[0]] else { return self.refuse("calls what has no name") };
        let Value::Tuple(arguments) = &self.values[parts[1]] else {
            return self.refuse("calls without a tuple");
        };
        let first = arguments.first().map(|id| &self.values[*id]);
        let made = match (known, first) {
            (Known::OrderedDict, None) => Some(Value::Dict(Vec::new())),
            (Known::Size, Some(Value::Tuple(sides))) if sides.len() <= MOST_SIDES => {
                Some(Value::Tuple(sides.clone()))
            }
            (Known::RebuildParameter, Some(Value::Tensor(tensor))) => Some(Value::Tensor(tensor.clone())),
            (Known::RebuildTensor, Some(Value::Storage(_))) => {
                let numbers = |at: usize| self.numbers(*arguments.get(at)?);
                let start = arguments.get(1).and_then(|id| self.number(*id));
                start.zip(numbers(2)).zip(numbers(3)).map(|((start, shape), strides)| {
                    Value::Tensor(Box::new(Tensor { storage: arguments[0], start, shape, strides }))
                })
            }
            _ => None,
        };
        match made {
            Some(value) => {
                self.push(value);
                Ok(())
            }
            None => self.refuse("calls with arguments that rebuild no tensor"),
        }
    }

    fn number(&self, id: Id) -> Option<u64> {
        match self.values[id] {
            Value::Int(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    /// Sides or strides, few, so that a copy of them is nothing.
    fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        match &self.values[id] {
            Value::Tuple(all) if all.len() <= MOST_SIDES => all.iter().map(|id| self.number(*id)).collect(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_of_numbers_and_texts() {
        // {'a': 7, 'b': (-2, 'x')} as protocol 2.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x07X\x01\x00\x00\x00bJ\xfe\xff\xff\xffX\x01\x00\x00\x00x\x86u.";
        let pickle = read(&bytes[..]).unwrap();
        let Value::Dict(pairs) = &pickle.values[pickle.top] else { panic!("{pickle:?}") };
        assert_eq!(pickle.values[pairs[0].1], Value::Int(7));
        let Value::Tuple(parts) = &pickle.values[pairs[1].1] else { panic!("{pickle:?}") };
        assert_eq!(pickle.values[parts[0]], Value::Int(-2));
        assert_eq!(pickle.length, bytes.len() as u64);
    }

    /// What `pickle.dumps` of an object with `__reduce__` -> `os.system('id')` is made of.
    #[test]
    fn nothing_is_called() {
        let refused = read(&b"\x80\x02cposix\nsystem\nq\x00X\x02\x00\x00\x00id\x85R."[..]).unwrap_err();
        assert_eq!((refused.offset, refused.opcode), (2, b'c'));
        assert!(refused.why.contains("posix.system"), "{refused:?}");
        let refused = read(&b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."[..]).unwrap_err();
        assert_eq!((refused.offset, refused.opcode), (18, 0x93));
        // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1 to EXT4, PERSID, strings that evaluate, BINUNICODE8, LONG4, frozen sets.
        for opcode in [b'i', b'o', 0x81, 0x92, 0x82, 0x83, 0x84, b'P', b'S', b'V', b'I', 0x8d, 0x8b, 0x91] {
            assert_eq!(read(&[0x80, 2, b')', opcode, 1, b'.'][..]).unwrap_err().opcode, opcode);
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_held() {
        let refused = read(&b"\x80\x02X\xff\xff\xff\x7fabc"[..]).unwrap_err();
        assert!(refused.why.contains("2147483647"), "{refused:?}");
        let endless = std::io::repeat(b')');
        assert_eq!(read(endless).unwrap_err().offset, MOST_VALUES as u64);
        assert_eq!(read(std::io::repeat(b'(')).unwrap_err().offset, LONGEST);
    }

    /// Copies of what was made before, cheap to ask for: a tuple of many as sides, a long key, a long name.
    #[test]
    fn what_is_copied_is_short() {
        let text = |length: u32| [&b"X"[..], &length.to_le_bytes(), &vec![b'k'; length as usize]].concat();
        let sides = [&b"\x80\x02ctorch\nSize\n("[..], &b"K\x01".repeat(50), b"t\x85R."].concat();
        assert!(read(sides.as_slice()).unwrap_err().why.contains("rebuild no tensor"));
        let storage =
            [&b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"[..], &text(5000), b"NK\x01tQ."]
                .concat();
        assert!(read(storage.as_slice()).unwrap_err().why.contains("no storage"));
        let name = [&b"\x80\x04"[..], &text(5000), &text(5000), b"\x93."].concat();
        assert!(read(name.as_slice()).unwrap_err().why.contains("at most 200"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            drop(read(bytes.as_slice()));
        }

        #[test]
        fn any_opcodes_of_ours_end(
            bytes in proptest::collection::vec(proptest::sample::select(b"}])(teasuqhRQbNK\x85\x86\x94\x01".to_vec()), 0..300),
        ) {
            drop(read(bytes.as_slice()));
        }
    }
}
