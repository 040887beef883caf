//! Names of sets and of their pins. The programs need no compiler.

use std::io;
use std::path::Path;

use cnikit::bpf::{Direction, Error, NewPins, PinSet, TcxLink};
use cnikit_testbed::{classifier, host};

use crate::foreign::set;
use crate::support::{ROOT, index, names};

#[test]
fn names_that_bpffs_or_the_set_reserves_are_refused() {
    host(|_| {
        let set = set();
        let (program, _) = classifier(-1);
        for (name, reason) in [
            ("my.rodata", "contains a `.`"),
            ("a/b", "contains a `/`"),
            ("", "is empty"),
            ("build-of-mine", "begins with `build-`"),
        ] {
            let error = set.ensure("build", |pins| Ok(pins.pin(name, &program)?)).unwrap_err();
            assert!(matches!(&error, Error::PinName { name: named, .. } if named == name), "{error:?}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        let twice = |pins: &NewPins<'_>| Ok(pins.pin("a", &program).and_then(|()| pins.pin("a", &program))?);
        let error = set.ensure("build", twice).unwrap_err();
        assert!(
            matches!(&error, Error::Pin { source, .. } if source.kind() == io::ErrorKind::AlreadyExists),
            "{error:?}"
        );

        let dotted = PinSet::new("/sys/fs/bpf/my.plugin", &"one".parse().unwrap());
        let error = dotted.ensure("build", |pins| Ok(pins.pin("a", &program)?)).unwrap_err();
        assert!(matches!(&error, Error::PinName { name, .. } if name == "my.plugin"), "{error:?}");
        assert!(error.to_string().contains("my.plugin"), "{error}");
        let error = cnikit::bpf::ensure_directory("/sys/fs/bpf/a/b.c").unwrap_err();
        assert!(matches!(&error, Error::PinName { name, .. } if name == "b.c"), "{error:?}");
        let link = TcxLink::ensure(&program, index(1), Direction::Ingress, "/sys/fs/bpf/a/eth0.1").unwrap_err();
        assert!(matches!(&link, Error::PinName { name, .. } if name == "eth0.1"), "{link:?}");
        assert!(!Path::new("/sys/fs/bpf/a").exists());
    });
}

#[test]
fn sets_are_listed_by_name() {
    host(|_| {
        assert_eq!(PinSet::list(ROOT).unwrap(), []);
        let (program, _) = classifier(-1);
        let sets = ["two", "my.net"].map(|name| PinSet::new(ROOT, &name.parse().unwrap()));
        for set in &sets {
            set.ensure("build", |pins| Ok(pins.pin("a", &program)?)).unwrap();
        }
        assert_eq!(names(ROOT), ["my:net", "two"]);
        assert_eq!(PinSet::list(ROOT).unwrap().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["my.net", "two"]);
        sets.iter().for_each(|set| set.remove().unwrap());
        sets.iter().for_each(|set| set.remove().expect("an absent set is success"));
        assert_eq!(names(ROOT), [""; 0]);
    });
}
