//! Writes the JavaScript that loads a module, and the module without wasm-bindgen's own sections.
//!
//! Usage: `entra-exchange-bindgen MODULE DIRECTORY NAME`. The script is a classic one, because a browser loads no JavaScript module from
//! a file.

use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, directory, name] = arguments.as_slice() else {
        eprintln!("usage: entra-exchange-bindgen MODULE DIRECTORY NAME");
        return ExitCode::from(2);
    };
    let mut bindgen = Bindgen::new();
    let written = bindgen.input_path(module).out_name(name).typescript(false).no_modules(true).and_then(|bindgen| bindgen.generate(directory));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entra-exchange-bindgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
