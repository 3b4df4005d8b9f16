//! argv in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    mtg::cli::main(std::env::args_os().skip(1))
}
