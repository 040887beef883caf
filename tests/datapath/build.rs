//! Compilation of the C programs by the build script.

/// New warnings of a newer clang must not break the build of a dependent crate. The scripts that
/// test this crate set the variable.
#[test]
fn clang_warnings_are_errors_only_on_demand() {
    let is_demanded = option_env!("CNIKIT_BPF_WERROR") == Some("1");
    let flags: Vec<&str> = env!("CNI_TC_WARNINGS").split(' ').collect();
    assert!(flags.contains(&"-Wall") && flags.contains(&"-Wextra"), "{flags:?}");
    assert_eq!(flags.contains(&"-Werror"), is_demanded, "{flags:?}");
}
