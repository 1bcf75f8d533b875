//! A restricted unpickler. It knows the opcodes that build tensors and plain containers, and calls nothing: a global is a
//! name in a fixed list (`objects.rs`), and whatever else a pickle asks for is an error that names it.
//!
//! Every opcode adds a bounded number of values, and none of them is copied deeply, so the memory in use is bounded by
//! the length of the pickle.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::archive::Archive;
use super::objects::{Global, Objects, Value};

/// Reads a whole pickle. Returns its objects and the one that it is.
///
/// # Errors
/// It is damaged, or asks for something that is not a tensor or a plain container.
pub(super) fn read<'a>(pickle: &'a [u8], archive: &Archive<'a>) -> Result<(Objects<'a>, Value<'a>)> {
    let mut machine = Machine {
        input: pickle,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Objects::default(),
        archive,
    };
    while !machine.step()? {}
    let root = machine.pop()?;
    Ok((machine.objects, root))
}

struct Machine<'a, 'b> {
    /// What is yet to be read.
    input: &'a [u8],
    stack: Vec<Value<'a>>,
    /// The heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Objects<'a>,
    archive: &'b Archive<'a>,
}

impl<'a> Machine<'a, '_> {
    /// Executes one opcode. Returns whether it was the last.
    fn step(&mut self) -> Result<bool> {
        let [opcode] = self.take::<1>()?;
        match opcode {
            b'.' => return Ok(true),
            0x80 => self.protocol()?,
            0x95 => drop(self.take::<8>()?), // FRAME: its length
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = *self.stack.last().context("it is damaged: its stack is empty")?;
                self.stack.push(top);
            }
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)),
            b'G' => {
                self.take::<8>()?;
                self.stack.push(Value::Number);
            }
            b'J' | b'K' | b'M' | 0x8a => self.integer(opcode)?,
            b'X' | 0x8c | 0x8d => {
                let text = self.text(opcode)?;
                self.stack.push(Value::Str(text));
            }
            b'B' | b'C' | 0x8e | b'T' | b'U' => {
                let length = self.length(opcode)?;
                self.bytes(length)?;
                self.stack.push(Value::Bytes);
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(opcode)?,
            b'}' | b']' | b')' | b't' | 0x85..=0x87 | b'l' | b'd' | b'a' | b'e' | b's' | b'u' => {
                self.container(opcode)?;
            }
            b'c' | 0x93 | b'Q' | b'R' | b'b' => self.object(opcode)?,
            _ => bail!("it uses the opcode {}, which tensors and plain containers do not need", name_of(opcode)),
        }
        Ok(false)
    }

    /// A global, a storage, the result of a call, or an object's state.
    fn object(&mut self, opcode: u8) -> Result<()> {
        let object = match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Value::Global(Global::find(module, name)?)
            }
            0x93 => {
                let [Value::Str(module), Value::Str(name)] = self.pop_many()? else {
                    bail!("it is damaged: STACK_GLOBAL")
                };
                Value::Global(Global::find(module, name)?)
            }
            b'Q' => {
                let id = self.pop()?;
                self.objects.storage(id, self.archive)?
            }
            b'R' => {
                let [callable, arguments] = self.pop_many()?;
                self.objects.reduce(callable, arguments)?
            }
            _ => {
                let [object, state] = self.pop_many()?;
                self.objects.check_state(object, state)?;
                object
            }
        };
        self.stack.push(object);
        Ok(())
    }

    fn protocol(&mut self) -> Result<()> {
        let [protocol] = self.take()?;
        ensure!(protocol <= 5, "it has protocol {protocol}; at most 5 can be read");
        Ok(())
    }

    fn integer(&mut self, opcode: u8) -> Result<()> {
        let integer = match opcode {
            b'J' => i32::from_le_bytes(self.take()?).into(),
            b'K' => self.take::<1>()?[0].into(),
            b'M' => u16::from_le_bytes(self.take()?).into(),
            _ => {
                let [length] = self.take()?;
                let bytes = self.bytes(length.into())?;
                let Some(&last) = bytes.last() else {
                    self.stack.push(Value::Int(0));
                    return Ok(());
                };
                let mut wide = [if last < 128 { 0 } else { 255 }; 8];
                match wide.get_mut(..bytes.len()) {
                    Some(low) => low.copy_from_slice(bytes),
                    None => {
                        self.stack.push(Value::Number);
                        return Ok(());
                    }
                }
                i64::from_le_bytes(wide)
            }
        };
        self.stack.push(Value::Int(integer));
        Ok(())
    }

    /// Stores the top of the stack in the memo, or pushes a value from it.
    fn memo(&mut self, opcode: u8) -> Result<()> {
        let index = match opcode {
            b'q' | b'h' => self.take::<1>()?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.take()?),
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let value = *self.memo.get(&index).with_context(|| format!("it is damaged: no memo {index}"))?;
            self.stack.push(value);
        } else {
            let top = *self.stack.last().context("it is damaged: its stack is empty")?;
            self.memo.insert(index, top);
        }
        Ok(())
    }

    fn container(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'}' => self.push_dict(&[])?,
            b']' => self.push_list(Vec::new()),
            b')' => self.push_tuple(Vec::new()),
            b't' => {
                let values = self.pop_to_mark()?;
                self.push_tuple(values);
            }
            b'l' => {
                let values = self.pop_to_mark()?;
                self.push_list(values);
            }
            b'd' => {
                let values = self.pop_to_mark()?;
                self.push_dict(&values)?;
            }
            b'a' => {
                let [list, value] = self.pop_many()?;
                self.objects.append(list, &[value])?;
                self.stack.push(list);
            }
            b'e' => {
                let values = self.pop_to_mark()?;
                let list = self.pop()?;
                self.objects.append(list, &values)?;
                self.stack.push(list);
            }
            b's' => {
                let [dict, key, value] = self.pop_many()?;
                self.objects.insert(dict, &[key, value])?;
                self.stack.push(dict);
            }
            b'u' => {
                let values = self.pop_to_mark()?;
                let dict = self.pop()?;
                self.objects.insert(dict, &values)?;
                self.stack.push(dict);
            }
            _ => {
                let count = usize::from(opcode - 0x84);
                ensure!(count <= self.available(), "it is damaged: its stack is too short");
                let values = self.stack.split_off(self.stack.len() - count);
                self.push_tuple(values);
            }
        }
        Ok(())
    }

    fn push_tuple(&mut self, values: Vec<Value<'a>>) {
        let tuple = Value::Tuple(self.objects.new_sequence(values));
        self.stack.push(tuple);
    }

    fn push_list(&mut self, values: Vec<Value<'a>>) {
        let list = Value::List(self.objects.new_sequence(values));
        self.stack.push(list);
    }

    fn push_dict(&mut self, values: &[Value<'a>]) -> Result<()> {
        let dict = self.objects.new_dict();
        self.objects.insert(dict, values)?;
        self.stack.push(dict);
        Ok(())
    }

    /// The values above the last mark.
    fn available(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        ensure!(self.available() > 0, "it is damaged: its stack is too short");
        self.stack.pop().context("it is damaged: its stack is empty")
    }

    /// The last `N` values, in the order in which they were pushed.
    fn pop_many<const N: usize>(&mut self) -> Result<[Value<'a>; N]> {
        let mut values = [Value::None; N];
        for value in values.iter_mut().rev() {
            *value = self.pop()?;
        }
        Ok(values)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().context("it is damaged: its stack has no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.input.split_first_chunk::<N>().context("it is truncated")?;
        self.input = rest;
        Ok(*taken)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.input.split_at_checked(length).context("it is truncated")?;
        self.input = rest;
        Ok(taken)
    }

    fn text(&mut self, opcode: u8) -> Result<&'a str> {
        let length = self.length(opcode)?;
        str::from_utf8(self.bytes(length)?).context("a string in it is not UTF-8")
    }

    /// The length that follows the opcode of a string or of bytes.
    fn length(&mut self, opcode: u8) -> Result<usize> {
        Ok(match opcode {
            0x8c | b'C' | b'U' => self.take::<1>()?[0].into(),
            0x8d | 0x8e => usize::try_from(u64::from_le_bytes(self.take()?))?,
            _ => u32::from_le_bytes(self.take()?) as usize,
        })
    }

    fn line(&mut self) -> Result<&'a str> {
        let end = self.input.iter().position(|&byte| byte == b'\n').context("it is truncated")?;
        let line = self.bytes(end)?;
        self.take::<1>()?;
        str::from_utf8(line).context("a name in it is not UTF-8")
    }
}

/// An opcode for messages.
fn name_of(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        b'P' => "PERSID",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82..=0x84 => "EXT",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        b'F' | b'I' | b'L' | b'S' | b'V' | b'g' | b'p' => "of protocol 0",
        _ => "unknown",
    };
    format!("{opcode:#04x} ({name})")
}
