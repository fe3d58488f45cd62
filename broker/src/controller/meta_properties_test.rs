use std::io::IoSlice;

use super::{
    super::test_support::{DATA, NODE, SmallDisk},
    *,
};
use crate::io::sim::SimDisk;

fn properties() -> MetaProperties {
    MetaProperties {
        cluster: ClusterId::from_bytes(&[0xab; 16]).unwrap(),
        node: BrokerId(7),
        directory: DirectoryId::from_bytes(&[0x01; 16]).unwrap(),
    }
}

fn open(
    disk: &SimDisk,
    node: BrokerId,
    cluster: Option<ClusterId>,
) -> Result<MetaProperties, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let failure = Failure::open(Arc::clone(&disk), DATA);
    MetaProperties::open_or_format(&disk, Path::new(DATA), node, cluster, &failure)
}

fn put(disk: &SimDisk, text: &str) {
    let path = Path::new(DATA).join(META_PROPERTIES);
    let _ = disk.remove_file(&path);
    disk.create(&path).unwrap().write_at(&[IoSlice::new(text.as_bytes())], 0).unwrap();
}

#[test]
fn the_text_is_frozen_and_people_may_lay_it_out_as_they_like() {
    let text = properties().to_string();
    assert!(text.ends_with(
        "version=1\ncluster.id=abababababababababababababababab\nnode.id=7\n\
         directory.id=01010101010101010101010101010101\n"
    ));
    assert_eq!(parse(&text), Ok(properties()));
    let loose = "\n directory.id = 01010101010101010101010101010101\nversion=1\n#x\nnode.id=7\r\n\
                 cluster.id=abababab-abab-abab-abab-abababababab";
    assert_eq!(parse(loose), Ok(properties()));
}

#[test]
fn text_that_says_something_else_is_refused() {
    let good = properties().to_string();
    for (text, what) in [
        (good.replace("version=1", "version=2"), "format version 2"),
        (good.replace("version=1", ""), "version is missing"),
        (good.replace("node.id=7", ""), "node.id is missing"),
        (good.replace("node.id=7", "node.id=seven"), "node.id=seven"),
        (good.replace("cluster.id=ab", "cluster.id="), "cluster.id="),
        (good.replace("node.id=7", "node.id=7\nnode.id=8"), "stands there twice"),
        (format!("{good}rack=a"), "rack is no key"),
        (format!("{good}nonsense"), "no line of the form"),
        (String::new(), "version is missing"),
    ] {
        let disk = SimDisk::small();
        put(&disk, &text);
        let error = open(&disk, NODE, None).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(META_PROPERTIES), "{error}");
    }
}

#[test]
fn a_directory_is_formatted_once() {
    let disk = SimDisk::small();
    let cluster = ClusterId::random();
    let first = open(&disk, NODE, Some(cluster)).unwrap();
    assert_eq!((first.cluster, first.node), (cluster, NODE));
    assert_eq!(open(&disk, NODE, None).unwrap(), first);
    assert_eq!(open(&disk, NODE, Some(cluster)).unwrap(), first);
    let other = SimDisk::small();
    assert_ne!(open(&other, NODE, Some(cluster)).unwrap().directory, first.directory);
}

#[test]
fn somebody_elses_directory_is_refused() {
    let disk = SimDisk::small();
    open(&disk, NODE, None).unwrap();
    let error = open(&disk, BrokerId(2), None).unwrap_err().to_string();
    assert!(error.contains("belongs to broker 1, this is broker 2"), "{error}");
    let error = open(&disk, NODE, Some(ClusterId::random())).unwrap_err().to_string();
    assert!(error.contains("belongs to cluster"), "{error}");
}

#[tokio::test]
async fn nothing_is_formatted_over_somebodys_data() {
    let disk = SimDisk::small();
    let partition = format!("{}-0", "a".repeat(32));
    disk.create_dir(&Path::new(DATA).join(&partition)).unwrap();
    let error = open(&disk, NODE, None).unwrap_err().to_string();
    assert!(error.contains(&partition) && error.contains("no meta.properties"), "{error}");
    assert_eq!(disk.list(Path::new(DATA)).unwrap().len(), 1, "and nothing was written");

    let disk = SimDisk::small();
    drop(super::super::test_support::registered(&disk).await);
    disk.remove_file(&Path::new(DATA).join(META_PROPERTIES)).unwrap();
    let error = open(&disk, NODE, None).unwrap_err().to_string();
    assert!(error.contains("a metadata log with entries"), "{error}");
}

#[test]
fn properties_without_a_log_do_not_start_an_empty_one() {
    let disk = SimDisk::small();
    put(&disk, &MetaProperties { node: NODE, ..properties() }.to_string());
    let error = super::super::test_support::open_with(&disk, Default::default()).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
}

#[test]
fn no_room_to_format_is_said_and_passes() {
    let disk = SimDisk::small();
    for capacity in [0, 4096, 8192, 200 * 1024] {
        disk.set_capacity(Some(capacity));
        let error = open(&disk, NODE, None).unwrap_err();
        assert!(
            error.to_string().contains("no room") || error.to_string().contains("cannot"),
            "{error}"
        );
    }
    disk.set_capacity(None);
    open(&disk, NODE, None).unwrap();
}
