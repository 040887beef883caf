//! How the build script compiles the C program.

/// A newer clang may warn of more, and must not break a dependent's build. The scripts that test this crate set the variable.
#[test]
fn warnings_of_clang_are_errors_on_demand_only() {
    let is_demanded = option_env!("CNIKIT_BPF_WERROR") == Some("1");
    let flags: Vec<&str> = env!("CNI_TC_WARNINGS").split(' ').collect();
    assert!(flags.contains(&"-Wall") && flags.contains(&"-Wextra"), "{flags:?}");
    assert_eq!(flags.contains(&"-Werror"), is_demanded, "{flags:?}");
}
