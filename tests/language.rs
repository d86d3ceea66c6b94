//! Labs under `fixtures/labs` use the language's corners: names that other tools take for booleans and numbers, ranges,
//! generators, pools of the file's own, actions. They pass on each dataplane this machine has.

mod common;

#[test]
fn the_corners_of_the_language_hold() {
    let mut files: Vec<_> = std::fs::read_dir("fixtures/labs")
        .expect("fixtures/labs")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    for dataplane in common::dataplanes() {
        let output = common::run(common::vilab().args(["test", "--dataplane", dataplane]).args(&files));
        println!("{output}");
    }
}
