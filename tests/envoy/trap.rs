//! A copy of the release module with a callback that traps.

use wasmparser::{ExternalKind, Parser, Payload, TypeRef};

const NO_LOCALS: u8 = 0x00;
const UNREACHABLE: u8 = 0x00;
const NOP: u8 = 0x01;
const END: u8 = 0x0b;

/// Returns the module with the body of this callback replaced by a trap.
pub(crate) fn in_callback(module: &[u8], callback: &str) -> Vec<u8> {
    let (mut imported, mut exported, mut bodies) = (0, None, Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.unwrap() {
            Payload::ImportSection(section) => {
                let functions =
                    section.into_imports().filter(|import| matches!(import.as_ref().unwrap().ty, TypeRef::Func(_)));
                imported = functions.count();
            }
            Payload::ExportSection(section) => {
                let named = section.into_iter().map(Result::unwrap).find(|export| export.name == callback);
                exported = named.filter(|export| export.kind == ExternalKind::Func).map(|export| export.index);
            }
            Payload::CodeSectionEntry(body) => bodies.push(body.range()),
            _ => {}
        }
    }
    let exported = usize::try_from(exported.expect("the callback is exported")).unwrap();
    let mut trapping = module.to_vec();
    let body = &mut trapping[bodies[exported - imported].clone()];
    body.fill(NOP);
    (body[0], body[1]) = (NO_LOCALS, UNREACHABLE);
    *body.last_mut().unwrap() = END;
    trapping
}
