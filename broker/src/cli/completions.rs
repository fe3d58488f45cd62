//! `riverrun completions`: what a shell needs to complete command lines.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, error::Result, output::Stdout};

/// Print a shell's completion script
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun completions bash > ~/.local/share/bash-completion/completions/riverrun
  riverrun completions zsh > \"${fpath[1]}/_riverrun\"
  riverrun completions fish > ~/.config/fish/completions/riverrun.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell to write it for
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    // Written to memory first: the generator panics where a pipe is closed early.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "riverrun", &mut script);
    let mut out = Stdout::lock();
    out.bytes(&script)?;
    out.flush()
}
