//! The product's binary, built with the scenarios so that they never run a stale one.

fn main() -> std::process::ExitCode {
    riverrun_broker::cli::main()
}
