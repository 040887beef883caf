//! The links of PCI devices, from sysfs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::netlink::error::{Error, Result};
use crate::spec::IfName;

/// The names of the links of a PCI device, such as `0000:00:1f.6`, sorted. Empty if the device has
/// no network driver, or its links are in another namespace.
///
/// The links are in the namespace that sysfs is mounted for, usually the host's.
///
/// ```
/// use cnikit::netlink::{Error, link_names_of_pci};
///
/// let error = link_names_of_pci("../../net").expect_err("not an address");
/// assert!(matches!(error, Error::PciDevice { .. }));
/// ```
///
/// # Errors
///
/// [`Error::PciDevice`] with `InvalidInput` for a malformed address, with `NotFound` if the machine
/// has no such device.
///
/// # Kernel
///
/// Reads [`/sys/bus/pci/devices`](https://www.kernel.org/doc/html/latest/PCI/sysfs-pci.html), and
/// for a virtio device also its directory `virtio<n>`.
pub fn link_names_of_pci(address: &str) -> Result<Vec<IfName>> {
    link_names_below(Path::new("/sys/bus/pci/devices"), address)
        .map_err(|source| Error::PciDevice { address: address.to_owned(), source })
}

fn link_names_below(devices: &Path, address: &str) -> io::Result<Vec<IfName>> {
    if !is_address(address) {
        let rule = "a PCI address has the form 0000:00:1f.6";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, rule));
    }
    let device = devices.join(address);
    let mut folders = vec![device.join("net")];
    for name in names(&device)? {
        if name.starts_with("virtio") {
            folders.push(device.join(name).join("net"));
        }
    }
    let mut found = Vec::new();
    for folder in folders {
        found.extend(names_if_present(folder)?.iter().filter_map(|name| name.parse().ok()));
    }
    found.sort();
    Ok(found)
}

fn names_if_present(folder: PathBuf) -> io::Result<Vec<String>> {
    match names(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// The names in a directory that are UTF-8.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// `domain:bus:device.function`, in hexadecimal digits. Some domains have more than four digits.
fn is_address(address: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = address.split(':');
    let (Some(domain), Some(bus), Some(rest), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    (4..=8).contains(&domain.len())
        && (bus.len(), device.len(), function.len()) == (2, 2, 1)
        && [domain, bus, device, function].into_iter().all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_cannot_leave_the_directory() {
        for bad in [
            "",
            "..",
            "/",
            "0000:00:1f",
            "00:1f.6",
            "0000:00:1f.66",
            "0000:00:1f.6/",
            "0000:00:1f.6/..",
            "../00:00:1.0",
            "0000:00:..6",
            "0000:0g:1f.6",
            "0000:00:1f.6:",
            "000000000:00:1f.6",
        ] {
            let error = link_names_of_pci(bad).unwrap_err();
            assert!(matches!(&error, Error::PciDevice { source, .. } if source.kind() == io::ErrorKind::InvalidInput));
        }
    }

    #[test]
    fn links_of_a_device_and_of_its_virtio_device_are_found() {
        let devices = tempfile::tempdir().unwrap();
        let (card, virtio, other) = ("0000:00:1f.6", "10000:e1:00.0", "0000:00:02.0");
        for path in [&format!("{card}/net/ens3"), &format!("{card}/net/ens3d1"), &format!("{virtio}/virtio0/net/eth0")]
        {
            fs::create_dir_all(devices.path().join(path)).unwrap();
        }
        fs::create_dir_all(devices.path().join(other)).unwrap();
        let found = |address| {
            let names = link_names_below(devices.path(), address).unwrap();
            names.iter().map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!((found(card), found(virtio)), (vec!["ens3".into(), "ens3d1".into()], vec!["eth0".into()]));
        assert!(found(other).is_empty());
        let error = link_names_below(devices.path(), "0000:00:03.0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
