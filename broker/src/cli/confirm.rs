//! Asking before something is lost for good.

use std::io::{self, IsTerminal as _, Write as _};

use super::error::{Failure, Result};

/// Asks on the terminal. Anything but yes is no. `what` is done, for who has no terminal to ask on;
/// `left` says what it comes to if the answer is no.
pub(super) fn confirm(question: &str, what: &str, left: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{what} needs a yes and there is no terminal to ask on"
        ))
        .advise("say it beforehand: --yes"));
    }
    let mut answer = String::new();
    eprint!("{question} [y/N] ");
    let read = io::stderr().flush().and_then(|()| io::stdin().read_line(&mut answer));
    read.map_err(|e| Failure::io("cannot ask", &e))?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed(left)),
    }
}
