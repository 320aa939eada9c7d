//! The short run of each target on stable Rust, the same every time.
//!
//!     smoke [TARGET…]        examples and mutations of these targets, or of all
//!     smoke --one TARGET FILE   one input, such as libFuzzer leaves behind
//!     smoke --corpus FOLDER  writes what libFuzzer begins with: examples and dictionaries

use std::panic;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use mailrail_fuzz::mutate::{Dice, mutation};
use mailrail_fuzz::{TARGETS, Target};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--corpus", folder] => {
            write_corpus(Path::new(folder)).expect("the folder can be written");
            ExitCode::SUCCESS
        }
        ["--one", name, file] => {
            let input = std::fs::read(file).expect("the file can be read");
            (find(name).check)(&input);
            ExitCode::SUCCESS
        }
        [] => run(TARGETS.iter()),
        _ => run(words.iter().map(|name| find(name))),
    }
}

fn find(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
}

fn run(targets: impl Iterator<Item = &'static Target>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for target in targets {
        let start = Instant::now();
        match short_run(target) {
            Ok(inputs) => println!(
                "{:<10} {inputs} inputs in {:.1?}",
                target.name,
                start.elapsed()
            ),
            Err(input) => {
                println!(
                    "{:<10} broken by b\"{}\"",
                    target.name,
                    input.escape_ascii()
                );
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// The number of inputs, or the first one that broke something.
fn short_run(target: &Target) -> Result<u32, Vec<u8>> {
    let holds = |input: &[u8]| panic::catch_unwind(|| (target.check)(input)).is_ok();
    for example in target.examples {
        if !holds(example) {
            return Err(example.to_vec());
        }
    }
    let mut dice = Dice::new(target.rounds.into());
    for _ in 0..target.rounds {
        let input = mutation(&mut dice, target.examples, target.words);
        if !holds(&input) {
            return Err(input);
        }
    }
    Ok(target.rounds + target.examples.len() as u32)
}

fn write_corpus(folder: &Path) -> std::io::Result<()> {
    for target in TARGETS {
        let inputs = folder.join(target.name);
        std::fs::create_dir_all(&inputs)?;
        for (index, example) in target.examples.iter().enumerate() {
            std::fs::write(inputs.join(format!("example-{index}")), example)?;
        }
        let mut dictionary = String::new();
        for word in target.words {
            let escaped = word.bytes().map(|b| match b {
                b' '..=b'~' if b != b'"' && b != b'\\' => char::from(b).to_string(),
                _ => format!("\\x{b:02x}"),
            });
            dictionary += &format!("\"{}\"\n", escaped.collect::<String>());
        }
        std::fs::write(folder.join(format!("{}.dict", target.name)), dictionary)?;
    }
    Ok(())
}
