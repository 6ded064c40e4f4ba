//! `#[test]` for a WebAssembly module, which has no test harness: each test is an export that is
//! named after its file and its function. The host calls it; a test that fails traps.

use proc_macro::{Span, TokenStream, TokenTree};

/// Exports a test as `test FILE NAME`. The crate has a function `testing::run_exported` that calls
/// it.
#[proc_macro_attribute]
pub fn test(_: TokenStream, function: TokenStream) -> TokenStream {
    if function.to_string().starts_with("#[ignore") {
        return TokenStream::new();
    }
    let name = name(&function);
    let export = format!("test {} {name}", Span::call_site().file());
    let wrapper = format!(
        "#[unsafe(export_name = {export:?})] extern \"C\" fn exported_{name}() {{ crate::testing::run_exported({name}); }}"
    );
    let wrapper: TokenStream = wrapper.parse().expect("the wrapper is Rust");
    function.into_iter().chain(wrapper).collect()
}

/// The name of a function: what follows `fn`.
fn name(function: &TokenStream) -> String {
    let mut tokens = function.clone().into_iter();
    let is_fn =
        |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn");
    tokens.find(is_fn).expect("a function follows the attribute");
    tokens.next().expect("a function has a name").to_string()
}
