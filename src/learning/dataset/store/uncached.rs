//! A file that is written once and goes past the page cache, where the system can: an import writes more than memory
//! holds, and copying it into the cache takes longer than a fast disk does.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use crate::platform::{through_the_cache, uncached_file};

/// What place and length of a write, and the memory it comes from, are multiples of: what the disks we know want.
const BLOCK: usize = 4096;

/// Bytes of a write.
const BUFFER: usize = 1 << 22;

/// A new file; it is whole after [`UncachedFile::finish`] alone.
pub(super) struct UncachedFile {
    file: File,
    memory: Vec<u8>,
    /// Where the aligned part of the memory begins.
    start: usize,
    n_waiting: usize,
    /// Bytes that are in the file.
    length: u64,
}

impl UncachedFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let open = uncached_file().write(true).create(true).truncate(true).open(path);
        let file = match open {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::create(path),
            open => open,
        }?;
        let memory = vec![0; BUFFER + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Ok(Self { file, memory, start, n_waiting: 0, length: 0 })
    }

    /// Writes the rest and syncs.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let length = self.length + self.n_waiting as u64;
        let end = self.start + self.n_waiting;
        self.n_waiting = self.n_waiting.next_multiple_of(BLOCK);
        self.memory[end..self.start + self.n_waiting].fill(0);
        self.write_waiting()?;
        self.file.set_len(length)?;
        self.file.sync_all()
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        let waiting = &self.memory[self.start..self.start + self.n_waiting];
        if let Err(error) = self.file.write_all(waiting) {
            if error.kind() != io::ErrorKind::InvalidInput {
                return Err(error);
            }
            // A disk that wants it otherwise.
            through_the_cache(&self.file)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            self.file.write_all(waiting)?;
        }
        self.length += self.n_waiting as u64;
        self.n_waiting = 0;
        Ok(())
    }
}

impl Write for UncachedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.n_waiting == BUFFER {
            self.write_waiting()?;
        }
        let n = bytes.len().min(BUFFER - self.n_waiting);
        let at = self.start + self.n_waiting;
        self.memory[at..at + n].copy_from_slice(&bytes[..n]);
        self.n_waiting += n;
        Ok(n)
    }

    /// Only whole blocks can be written, so the last one waits for [`UncachedFile::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_hold_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, BLOCK, BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER + BLOCK + 7] {
            // The second memory lies as no disk wants it.
            for shift in [0, 1] {
                let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
                std::fs::write(&path, vec![9; 3 * BUFFER]).unwrap();
                let mut file = UncachedFile::create(&path).unwrap();
                file.memory.push(0);
                file.start = file.memory.as_ptr().align_offset(BLOCK).min(BLOCK) + shift;
                for part in bytes.chunks(1_000_003) {
                    file.write_all(part).unwrap();
                }
                file.finish().unwrap();
                assert!(std::fs::read(&path).unwrap() == bytes, "{length} bytes, shifted by {shift}");
            }
        }
    }
}
