//! The plugin as a runtime sees it: the binary, its environment, its standard input and output, and what the kernel
//! shows afterwards. Nothing in here calls the library, but `chain`, where its runtime is the caller.

mod add;
mod bad_input;
mod chain;
mod check;
mod cnitool;
mod concurrency;
mod del;
mod delegation;
mod doctor;
mod dual_stack;
mod gc;
mod guard;
mod hostile_input;
mod hostile_pods;
mod install;
mod keys;
mod leases;
mod log_file;
mod logs;
mod masquerade;
mod people;
mod pods;
mod pools;
mod protocol;
mod rollback;
mod scale;
mod services;
mod stale;
mod status;
mod support;
mod top;
mod traffic;
mod uninstall;
mod upgrade;
mod wishes;
