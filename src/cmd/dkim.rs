//! `mailrail dkim`: keys that sign mail, and the DNS records that go with them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use message::dkim::{Algorithm, SigningKey, dns_record};
use smtp::Domain;

use crate::exit::{Exit, OrExit, Outcome, Stop};

/// Flags of `mailrail dkim`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a private key and print the DNS record to publish.
    Keygen(KeygenArgs),
}

#[derive(clap::Args)]
struct KeygenArgs {
    /// Domain that signs, such as that of the From address
    #[arg(long)]
    domain: Domain,

    /// Name of the key below _domainkey.DOMAIN; a new key takes a new one
    #[arg(long, value_name = "NAME")]
    selector: String,

    /// rsa (2048 bits, known to every receiver) or ed25519 (faster, known to some: sign with both)
    #[arg(long, value_enum, default_value = "rsa")]
    algorithm: AlgorithmArg,

    /// Where the private key goes (PEM, PKCS#8, mode 0600) [default: SELECTOR.DOMAIN.pem]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Replace the file if there is one; mail signed with its key is no longer verifiable once the
    /// record changes
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum AlgorithmArg {
    Rsa,
    Ed25519,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Keygen(args) => keygen(args, &mut io::stdout()),
    }
}

fn keygen(args: &KeygenArgs, out: &mut dyn Write) -> Outcome {
    let algorithm = match args.algorithm {
        AlgorithmArg::Rsa => Algorithm::Rsa,
        AlgorithmArg::Ed25519 => Algorithm::Ed25519,
    };
    let key = SigningKey::generate(algorithm).or_exit(Exit::Temporary)?;
    let value = key.public_record().or_exit(Exit::Temporary)?;
    let record = dns_record(&args.domain, &args.selector, &value).or_exit(Exit::Usage)?;
    let pem = key.to_pem().or_exit(Exit::Temporary)?;
    let file = match &args.out {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{}.{}.pem", args.selector, args.domain)),
    };
    write_secret(&file, pem.as_bytes(), args.force).map_err(|error| refusal(&file, &error))?;
    write!(
        out,
        "The private key is in {}: keep it secret.\n\n\
         Publish this TXT record:\n\n  \
         name   {}._domainkey.{}\n  \
         value  {value}\n\n\
         The same as a line of a zone file:\n\n  \
         {record}\n",
        file.display(),
        args.selector,
        args.domain,
    )
    .or_exit(Exit::Temporary)?;
    Ok(Exit::Done)
}

fn refusal(file: &Path, error: &io::Error) -> Stop {
    let file = file.display();
    if error.kind() == io::ErrorKind::AlreadyExists {
        let message = format_args!("{file} is there already; --force replaces it");
        return Stop::new(Exit::Usage, message);
    }
    Stop::new(Exit::Usage, format_args!("cannot write {file}: {error}"))
}

/// Writes a file that only its owner reads, and never through what is there already: a new file
/// or, by force, one renamed over it.
fn write_secret(file: &Path, secret: &[u8], force: bool) -> io::Result<()> {
    if !force {
        return fill(create(file)?, file, secret);
    }
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    fill(create(&new)?, &new, secret)?;
    fs::rename(&new, file).inspect_err(|_| remove(&new))
}

fn create(file: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
}

fn fill(mut open: File, file: &Path, secret: &[u8]) -> io::Result<()> {
    open.write_all(secret).inspect_err(|_| remove(file))
}

/// Half a key is of no use; the error that led here is the one to report.
fn remove(file: &Path) {
    let _ = fs::remove_file(file);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(file: &Path, algorithm: AlgorithmArg, force: bool) -> KeygenArgs {
        KeygenArgs {
            domain: "example.org".parse().unwrap(),
            selector: "s1".into(),
            algorithm,
            out: Some(file.to_owned()),
            force,
        }
    }

    fn run_keygen(args: &KeygenArgs) -> Result<String, Stop> {
        let mut out = Vec::new();
        keygen(args, &mut out).map(|_| String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_key_written_is_the_key_published() {
        let dir = tempfile::tempdir().unwrap();
        for algorithm in [AlgorithmArg::Rsa, AlgorithmArg::Ed25519] {
            let file = dir.path().join(format!("{}.pem", algorithm as u8));
            let said = run_keygen(&args(&file, algorithm, false)).unwrap();
            let key = SigningKey::from_pem(&fs::read(&file).unwrap()).unwrap();
            assert!(
                said.contains("name   s1._domainkey.example.org\n"),
                "{said}"
            );
            assert!(said.contains(&key.public_record().unwrap()), "{said}");
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_key_is_replaced_by_force_only_and_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let refused = run_keygen(&args(&link, AlgorithmArg::Ed25519, false)).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.error.to_string().contains("--force"));
        run_keygen(&args(&link, AlgorithmArg::Ed25519, true)).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert!(
            fs::read_to_string(&link)
                .unwrap()
                .contains("BEGIN PRIVATE KEY")
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_selector_that_cannot_be_one_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let mut args = args(&file, AlgorithmArg::Ed25519, false);
        args.selector = "a b".into();
        assert_eq!(run_keygen(&args).unwrap_err().exit, Exit::Usage);
        assert!(!file.exists());
    }
}
