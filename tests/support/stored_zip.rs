//! ZIP archives of stored members, as torch.save writes them. The fuzz targets use this file too.

/// An archive of stored members, as torch.save writes it.
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let name = format!("archive/{name}");
        let [length, offset] = [content.len() as u32, bytes.len() as u32].map(u32::to_le_bytes);
        // The version needed, flags, method, time and date; CRC-32, both sizes; the lengths of name and extra field.
        let common = [
            &[0; 10][..],
            &crc32(content).to_le_bytes(),
            &length,
            &length,
            &(name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        bytes.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), content].concat());
        directory.extend([&b"PK\x01\x02\0\0"[..], &common, &[0; 10], &offset, name.as_bytes()].concat());
    }
    let [size, offset] = [directory.len() as u32, bytes.len() as u32].map(u32::to_le_bytes);
    let count = (members.len() as u16).to_le_bytes();
    [&bytes[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &size, &offset, &[0, 0]].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc)))
}
