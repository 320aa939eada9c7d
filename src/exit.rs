//! How the binary ends: the one place that knows exit codes (BSD's sysexits).

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// Shown below `--help`.
pub(crate) const HELP: &str = "\
Exit codes: 0 done · 64 wrong usage · 65 wrong data (list, template, address, message; or a \
recipient refused for good) · 67 no such recipient (sendmail) · 69 the relay or the server cannot be \
reached · 75 not all done: run again, a mailing with --resume · 77 the relay refused the login, or the \
server the key · 78 the configuration has mistakes";

/// Exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All done.
    Done = 0,
    /// EX_USAGE: flags that are wrong or do not go together.
    Usage = 64,
    /// EX_DATAERR: a list, template, address or message that is wrong; a recipient refused for good.
    Data = 65,
    /// EX_NOUSER: a recipient that cannot be an address.
    NoUser = 67,
    /// EX_UNAVAILABLE: the relay cannot be reached, or not securely.
    Unavailable = 69,
    /// EX_TEMPFAIL: something is left to do; running again may do it.
    Temporary = 75,
    /// EX_NOPERM: the relay refused the login, or the server the key.
    NoPermission = 77,
    /// EX_CONFIG: the configuration has mistakes.
    Config = 78,
}

/// Why a command stopped before its end.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

impl Stop {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        let error = anyhow::anyhow!("{message}");
        Self { exit, error }
    }
}

/// What a command gives back.
pub(crate) type Outcome = Result<Exit, Stop>;

/// Says with which code an error ends the program.
pub(crate) trait OrExit<T> {
    fn or_exit(self, exit: Exit) -> Result<T, Stop>;
    /// The same with words before the error's own: `context: error`.
    fn or_exit_with(self, exit: Exit, context: impl Display) -> Result<T, Stop>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Stop> {
        self.map_err(|error| Stop {
            exit,
            error: error.into(),
        })
    }

    fn or_exit_with(self, exit: Exit, context: impl Display) -> Result<T, Stop> {
        self.map_err(|error| Stop {
            exit,
            error: error.into().context(context.to_string()),
        })
    }
}

/// Ends the program after a command.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    let exit = outcome.unwrap_or_else(|stop| {
        // Where nothing can be written any more, the code says it still.
        let _ = writeln!(std::io::stderr(), "mailrail: {:#}", stop.error);
        stop.exit
    });
    ExitCode::from(exit as u8)
}

/// Ends the program where clap understood no command, or was asked for help.
pub(crate) fn of_usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is no reason to fail.
    let _ = error.print();
    let exit = if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Done
    };
    ExitCode::from(exit as u8)
}
