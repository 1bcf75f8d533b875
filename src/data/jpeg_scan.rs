//! Reads the Huffman codes of a JPEG's scans to find out whether they are complete.

/// The number of bits that are decoded by a table look-up.
const LOOKUP_BITS: u32 = 9;

/// A Huffman table.
pub struct Huffman {
    /// For the next `LOOKUP_BITS` bits, the length of the code they begin with and its symbol; 0 for a longer code.
    lookup: Vec<(u8, u8)>,
    /// For every length, the first code of the next length, shifted to 16 bits; and the index of a code's symbol minus the
    /// code.
    limits: [u32; 17],
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// The table with `counts` codes of every length from 1 to 16; `None` if there are too many.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut lookup = vec![(0, 0); 1 << LOOKUP_BITS];
        let (mut limits, mut offsets) = ([0; 17], [0; 17]);
        let (mut code, mut index) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            offsets[length as usize] = index as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                if code >> length != 0 {
                    return None;
                }
                if length <= LOOKUP_BITS {
                    let shift = LOOKUP_BITS - length;
                    lookup[(code << shift) as usize..((code + 1) << shift) as usize]
                        .fill((length as u8, symbols[index]));
                }
                code += 1;
                index += 1;
            }
            limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { lookup, limits, offsets, symbols: symbols.into() })
    }
}

/// The tables that apply to a scan.
#[derive(Default)]
pub struct Tables {
    pub dc: [Option<Huffman>; 4],
    pub ac: [Option<Huffman>; 4],
    /// The number of MCUs between restart markers; 0 without them.
    pub restart_interval: usize,
}

/// A colour component of a picture.
pub struct Component {
    pub id: u8,
    /// The sampling factors.
    pub horizontal: usize,
    pub vertical: usize,
    /// Whether a scan contained it.
    pub scanned: bool,
    /// The width and height in blocks, in a scan of this component alone.
    blocks: (usize, usize),
    /// The width in blocks, padded to whole MCUs.
    stride: usize,
    /// Which coefficients of every block are not zero so far, if the picture is progressive.
    nonzero: Vec<u64>,
}

impl Component {
    pub fn new(id: u8, horizontal: usize, vertical: usize) -> Self {
        Self { id, horizontal, vertical, scanned: false, blocks: (0, 0), stride: 0, nonzero: Vec::new() }
    }
}

/// The size and components of a picture.
pub struct Frame {
    pub width: usize,
    pub height: usize,
    pub components: Vec<Component>,
    progressive: bool,
    /// The width and height in MCUs.
    mcus: (usize, usize),
}

impl Frame {
    pub fn new(width: usize, height: usize, progressive: bool, mut components: Vec<Component>) -> Self {
        let most = |factor: fn(&Component) -> usize| components.iter().map(factor).max().unwrap_or(1).max(1);
        let (horizontal, vertical) = (most(|it| it.horizontal), most(|it| it.vertical));
        let mcus = (width.div_ceil(8 * horizontal), height.div_ceil(8 * vertical));
        for component in &mut components {
            let blocks = |side: usize, factor: usize, most: usize| (side * factor).div_ceil(most).div_ceil(8);
            component.blocks =
                (blocks(width, component.horizontal, horizontal), blocks(height, component.vertical, vertical));
            component.stride = mcus.0 * component.horizontal;
        }
        Self { width, height, components, progressive, mcus }
    }
}

/// The header of a scan.
pub struct Scan {
    /// The numbers of components, with those of their DC and AC tables.
    pub components: Vec<(usize, usize, usize)>,
    /// The first and last coefficient.
    pub first: u8,
    pub last: u8,
    /// Whether the scan adds a bit to coefficients of an earlier scan.
    pub refines: bool,
}

impl Scan {
    /// Reads the scan from the beginning of `data` and returns the bytes after it; `None` if it is damaged or cut off.
    pub fn check<'a>(&self, frame: &mut Frame, tables: &Tables, data: &'a [u8]) -> Option<&'a [u8]> {
        let mut bits = Bits { data, at: 0, buffer: 0, count: 0 };
        for &(number, ..) in &self.components {
            let component = &mut frame.components[number];
            component.scanned = true;
            if frame.progressive && component.nonzero.is_empty() {
                component.nonzero = vec![0; component.stride * frame.mcus.1 * component.vertical];
            }
        }
        let mut end_of_band_run = 0;
        let alone = self.components.len() == 1;
        let (columns, rows) = match self.components.as_slice() {
            &[(number, ..)] => frame.components[number].blocks,
            _ => frame.mcus,
        };
        for mcu in 0..columns * rows {
            if tables.restart_interval > 0 && mcu > 0 && mcu % tables.restart_interval == 0 {
                bits.restart()?;
                end_of_band_run = 0;
            }
            for &(number, dc, ac) in &self.components {
                let component = &mut frame.components[number];
                let (dc, ac) = (tables.dc.get(dc)?.as_ref(), tables.ac.get(ac)?.as_ref());
                let (wide, high) = if alone { (1, 1) } else { (component.horizontal, component.vertical) };
                for block in 0..wide * high {
                    let (column, row) = (mcu % columns * wide + block % wide, mcu / columns * high + block / wide);
                    if frame.progressive {
                        let nonzero = &mut component.nonzero[row * component.stride + column];
                        self.progressive_block(&mut bits, dc, ac, nonzero, &mut end_of_band_run)?;
                    } else {
                        sequential_block(&mut bits, dc?, ac?)?;
                    }
                }
            }
        }
        data.get(bits.at..)
    }

    fn progressive_block(
        &self,
        bits: &mut Bits,
        dc: Option<&Huffman>,
        ac: Option<&Huffman>,
        nonzero: &mut u64,
        run: &mut u32,
    ) -> Option<()> {
        match (self.first, self.refines) {
            (0, false) => {
                let size = bits.symbol(dc?)?;
                bits.skip(size.into())
            }
            (0, true) => bits.skip(1),
            (_, false) => self.first_band(bits, ac?, nonzero, run),
            (_, true) => self.refined_band(bits, ac?, nonzero, run),
        }
    }

    fn first_band(&self, bits: &mut Bits, ac: &Huffman, nonzero: &mut u64, run: &mut u32) -> Option<()> {
        if *run > 0 {
            *run -= 1;
            return Some(());
        }
        let mut k = self.first;
        while k <= self.last {
            let symbol = bits.symbol(ac)?;
            let (zeros, size) = (symbol >> 4, symbol & 15);
            match (zeros, size) {
                (15, 0) => k += 16,
                (_, 0) => {
                    *run = (1 << zeros) + bits.value(zeros.into())? - 1;
                    break;
                }
                _ => {
                    k += zeros;
                    *nonzero |= 1_u64.checked_shl(k.into())?;
                    bits.skip(size.into())?;
                    k += 1;
                }
            }
        }
        Some(())
    }

    fn refined_band(&self, bits: &mut Bits, ac: &Huffman, nonzero: &mut u64, run: &mut u32) -> Option<()> {
        let mut k = self.first;
        while *run == 0 && k <= self.last {
            let symbol = bits.symbol(ac)?;
            let (mut zeros, size) = (symbol >> 4, symbol & 15);
            if size == 0 && zeros < 15 {
                *run = (1 << zeros) + bits.value(zeros.into())?;
                break;
            }
            bits.skip(u32::from(size > 0))?; // the sign of a new coefficient
            while k <= self.last {
                if *nonzero >> k & 1 == 1 {
                    bits.skip(1)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            if size > 0 && k <= self.last {
                *nonzero |= 1 << k;
            }
            k += 1;
        }
        if *run > 0 {
            let rest = (k..=self.last).filter(|&k| *nonzero >> k & 1 == 1).count();
            (0..rest).try_for_each(|_| bits.skip(1))?;
            *run -= 1;
        }
        Some(())
    }
}

fn sequential_block(bits: &mut Bits, dc: &Huffman, ac: &Huffman) -> Option<()> {
    let size = bits.symbol(dc)?;
    bits.skip(size.into())?;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(ac)?;
        match (symbol >> 4, symbol & 15) {
            (15, 0) => k += 16,
            (_, 0) => break,
            (zeros, size) => {
                bits.skip(size.into())?;
                k += zeros + 1;
            }
        }
    }
    Some(())
}

/// The bits of a scan. They end before a marker.
struct Bits<'a> {
    data: &'a [u8],
    /// The next byte to put into the buffer.
    at: usize,
    /// `count` bits, the next of which is the highest.
    buffer: u64,
    count: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 56 {
            let length = match self.data.get(self.at..) {
                Some([0xFF, 0, ..]) => 2, // a byte 0xFF
                Some([0xFF, ..] | []) | None => return,
                Some(_) => 1,
            };
            self.buffer |= u64::from(self.data[self.at]) << (56 - self.count);
            self.count += 8;
            self.at += length;
        }
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        if self.count < count {
            self.fill();
        }
        self.count = self.count.checked_sub(count)?;
        self.buffer <<= count;
        Some(())
    }

    fn value(&mut self, count: u32) -> Option<u32> {
        if self.count < count {
            self.fill();
        }
        let value = if count == 0 { 0 } else { self.buffer >> (64 - count) };
        self.skip(count)?;
        Some(value as u32)
    }

    fn symbol(&mut self, table: &Huffman) -> Option<u8> {
        if self.count < 16 {
            self.fill();
        }
        let (length, symbol) = table.lookup[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
        if length > 0 {
            self.skip(length.into())?;
            return Some(symbol);
        }
        let next = (self.buffer >> 48) as u32;
        let length = (LOOKUP_BITS + 1..=16).find(|&length| next < table.limits[length as usize])?;
        let index = (next >> (16 - length)) as i32 + table.offsets[length as usize];
        let symbol = *table.symbols.get(usize::try_from(index).ok()?)?;
        self.skip(length)?;
        Some(symbol)
    }

    /// Skips to the data after a restart marker.
    fn restart(&mut self) -> Option<()> {
        let at =
            self.data.get(self.at..)?.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF))?;
        let marker = self.data[self.at + at + 1];
        (self.buffer, self.count) = (0, 0);
        self.at += at + 2;
        matches!(marker, 0xD0..=0xD7).then_some(())
    }
}
