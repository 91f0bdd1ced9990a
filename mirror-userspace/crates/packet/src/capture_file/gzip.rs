//! Files of several gzip members, one behind the other, which are read as one (RFC 1952, section 2.2).

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// Members without content that a file may have. Each takes twenty bytes, and as much time as a large one; tools
/// that write members in parallel end a file with one.
const MAX_EMPTY: u32 = 1024;

pub(super) struct Gzip<R> {
    /// The member that is read; `None` at the end of the file.
    member: Option<GzDecoder<R>>,
    /// The member has content.
    has_content: bool,
    empty: u32,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(input: R) -> Self {
        Self { member: Some(GzDecoder::new(input)), has_content: false, empty: 0 }
    }

    /// Begins the next member.
    fn next_member(&mut self) -> io::Result<()> {
        self.empty += u32::from(!std::mem::take(&mut self.has_content));
        if self.empty > MAX_EMPTY {
            return Err(io::Error::other(format!("it has more than {MAX_EMPTY} empty gzip members")));
        }
        if let Some(mut input) = self.member.take().map(GzDecoder::into_inner)
            && !input.fill_buf()?.is_empty()
        {
            self.member = Some(GzDecoder::new(input));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.has_content = true;
                return Ok(count);
            }
            self.next_member()?;
        }
        Ok(0)
    }
}
