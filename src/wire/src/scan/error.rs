//! What can be wrong with a body.

/// Why a body was refused. The messages are for the client that sent it; they quote nothing of it
/// but the first 64 characters of a duplicate name. `at` counts bytes from the start of the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The body has more bytes than a [`Span`](super::Span) can count.
    #[error("the body of {len} bytes is too long")]
    TooLong {
        /// The length of the body in bytes.
        len: usize,
    },
    /// The body does not start with an opening brace.
    #[error("the body is not a JSON object")]
    NotAnObject {
        /// Where the opening brace should be.
        at: usize,
    },
    /// Something else was found than the grammar allows.
    #[error("the body is not valid JSON at byte {at}: expected {expected}")]
    Syntax {
        /// Where it was found.
        at: usize,
        /// What the grammar allows there.
        expected: &'static str,
    },
    /// The body ends too early.
    #[error("the body ends at byte {at}, before {expected}")]
    Truncated {
        /// Where the body ends.
        at: usize,
        /// What the grammar asks for there.
        expected: &'static str,
    },
    /// A string is not UTF-8.
    #[error("the body is not valid UTF-8 at byte {at}")]
    Utf8 {
        /// Where the first character that is not UTF-8 starts.
        at: usize,
    },
    /// A number has more than 1024 bytes.
    #[error("the number at byte {at} has too many digits")]
    NumberTooLong {
        /// Where the number starts.
        at: usize,
    },
    /// Arrays and objects nest deeper than [`Limits::depth`](super::Limits::depth).
    #[error("the body nests more than {limit} levels deep at byte {at}")]
    TooDeep {
        /// Where the first array or object that is too deep starts.
        at: usize,
        /// The limit that was exceeded.
        limit: u16,
    },
    /// The object has more members than [`Limits::members`](super::Limits::members).
    #[error("the body has more than {limit} members at byte {at}")]
    TooManyMembers {
        /// Where the first member beyond the limit starts.
        at: usize,
        /// The limit that was exceeded.
        limit: u16,
    },
    /// Two members of the object have the same name.
    #[error("the body has more than one member {name:?}, the second at byte {at}")]
    Duplicate {
        /// Where the second one's name starts.
        at: usize,
        /// The name, unescaped, cut to 64 characters.
        name: String,
    },
}

impl ScanError {
    /// Where the mistake is, in bytes from the start of the body.
    pub fn at(&self) -> usize {
        match self {
            ScanError::TooLong { .. } => u32::MAX as usize,
            ScanError::NotAnObject { at }
            | ScanError::Syntax { at, .. }
            | ScanError::Truncated { at, .. }
            | ScanError::Utf8 { at }
            | ScanError::NumberTooLong { at }
            | ScanError::TooDeep { at, .. }
            | ScanError::TooManyMembers { at, .. }
            | ScanError::Duplicate { at, .. } => *at,
        }
    }
}
