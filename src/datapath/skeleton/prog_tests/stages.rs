//! Programs with and without calls of the programs in `stages`.

use std::os::fd::AsFd as _;

use crate::bpf::prog_info::map_ids;
use crate::datapath::in_use::map_id;
use crate::datapath::map::Maps;
use crate::datapath::map_specs::MAPS;
use crate::datapath::skeleton::{Loaded, Stages, load_with};

/// Some kernels refuse tail calls in programs with global functions. Without the calls, the
/// programs do not use the map, which `Datapath::has_stages` reads. They also load onto an array
/// that they could not use.
#[test]
fn the_programs_load_without_stages() {
    if !cnikit_testbed::privileged() {
        return;
    }
    let is_used = |loaded: &Loaded| {
        let stages = map_id(&loaded.maps["stages"]).unwrap();
        let used = loaded.programs.iter().map(|(_, program)| map_ids(program.as_fd()).unwrap().contains(&stages));
        used.collect::<Vec<_>>()
    };
    let omitted = load_with(&Maps::new(), false, Stages::Omitted).unwrap();
    assert_eq!((is_used(&omitted), omitted.maps.len()), (vec![false; 2], MAPS.len()));
    let called = load_with(&omitted.maps, false, Stages::Called).unwrap();
    assert_eq!(is_used(&called), [true; 2]);
    let again = load_with(&called.maps, false, Stages::Omitted).unwrap();
    assert_eq!(is_used(&again), [false; 2]);
    assert_eq!(map_id(&again.maps["stages"]).unwrap(), map_id(&omitted.maps["stages"]).unwrap(), "the array stays");
}
