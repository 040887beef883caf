//! The plugin as a runtime sees it: the binary, its environment, its standard input and output, and what the kernel
//! shows afterwards. Nothing in here calls the library.

mod add;
mod bad_input;
mod check;
mod concurrency;
mod del;
mod delegation;
mod gc;
mod pools;
mod protocol;
mod rollback;
mod status;
mod support;
mod traffic;
mod wishes;
