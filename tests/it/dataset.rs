//! Data sets as a researcher makes them: from folders of planning CTs and structure sets, or of other people's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dicom_core::value::Value;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use ndarray::Array3;
use oarlock::learning::dataset::{Case, Dataset, OrganSet, Part};
use oarlock::pipeline::contours::fill;
use oarlock::pipeline::rtstruct;
use oarlock::pipeline::series::CtSeries;
use oarlock::pipeline::volume::HuVolume;
use oarlock::settings::StructureTemplate;
use oarlock::vocabulary::organ::Organ;
use oarlock::vocabulary::space::{PatientPoint, VoxelPoint};

use crate::support::shared_data;

fn oarlock(arguments: &[&str], paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oarlock")).args(arguments).args(paths).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `oarlock dataset add FOLDER --to DATASET ...`.
fn add(folder: &Path, dataset: &Path, more: &[&str]) -> Output {
    oarlock(&[&["dataset", "add", "--to"], [dataset.to_str().unwrap()].as_slice(), more].concat(), &[folder])
}

#[track_caller]
fn success(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    text(&output)
}

/// The command was refused with these words, and left no data set behind.
#[track_caller]
fn refused(output: Output, dataset: &Path, words: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(words), "{words:?} is not in\n{}", text(&output));
    assert!(!dataset.exists(), "{} was left behind", dataset.display());
}

/// Nothing of a case that was not taken lies in the data set.
#[track_caller]
fn no_part_is_left(data: &Path) {
    let names: Vec<_> =
        std::fs::read_dir(data.join("cases")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
}

/// A planning CT of a made-up patient with its structure set; coarse, so that it is quick.
fn patient(folder: &Path, seed: u32, position: &str) -> PathBuf {
    let case = folder.join(format!("Doe_John_{seed}"));
    let made = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["phantom", "--size", "56", "62", "--slices", "52", "--spacing", "5.5", "4.6", "4.4"])
        .args(["--seed", &seed.to_string(), "--position", position, "--output"])
        .arg(&case)
        .output()
        .unwrap();
    success(made);
    case
}

/// Changes a structure set in place.
fn change(path: &Path, change: impl FnOnce(&mut InMemDicomObject)) {
    let mut file = dicom_object::open_file(path).unwrap();
    change(&mut file);
    file.write_to_file(path).unwrap();
}

/// The items of a sequence, to be changed.
fn items(object: &mut InMemDicomObject, tag: dicom_core::Tag, change: impl FnMut(&mut InMemDicomObject)) {
    let element = object.take_element(tag).unwrap();
    let mut items: Vec<_> = element.into_value().into_items().unwrap().into_iter().collect();
    items.iter_mut().for_each(change);
    object.put(DataElement::new(tag, VR::SQ, Value::from(dicom_core::value::DataSetSequence::from(items))));
}

/// The number of an ROI.
fn number(path: &Path, name: &str) -> String {
    let file = dicom_object::open_file(path).unwrap();
    let rois = file.element(tags::STRUCTURE_SET_ROI_SEQUENCE).unwrap().items().unwrap();
    let value = |roi: &InMemDicomObject, tag| roi.element(tag).unwrap().to_str().unwrap().trim().to_owned();
    let roi = rois.iter().find(|roi| value(roi, tags::ROI_NAME) == name).unwrap();
    value(roi, tags::ROI_NUMBER)
}

/// Every voxel of the structure set's organs, and no other, is in the case, wherever the axes of both run; and so is
/// its HU.
fn is_the_same_patient(case: &Case, ct: &Path, truth: &Path) {
    let series = CtSeries::from_folder(ct).unwrap();
    let volume = HuVolume::read(&series).unwrap();
    let template = StructureTemplate::shipped().unwrap();
    let at = |z: usize, y: usize, x: usize| {
        let v = VoxelPoint { z: z as f64, y: y as f64, x: x as f64 };
        let there = case.grid.voxel_from_patient(series.grid.patient_from_voxel(v));
        [there.z, there.y, there.x].map(|at| at.round() as usize)
    };
    for ((z, y, x), hu) in volume.hu.indexed_iter() {
        assert_eq!(case.hu[at(z, y, x)], *hu, "{z} {y} {x}");
    }
    let mut organs = OrganSet::EMPTY;
    for (name, contours) in rtstruct::read(truth).unwrap().on_series(&series).0 {
        let organ = template.organ_named(&name).unwrap().organ;
        organs = organs.union(OrganSet::of(organ));
        let bit = OrganSet::of(organ).bits();
        let mask = fill(&contours, &series.grid, rtstruct::FILL_RULE);
        let [z0, y0, x0] = mask.region.start;
        let mut count = 0;
        for ((z, y, x), _) in mask.voxels.indexed_iter().filter(|(_, inside)| **inside) {
            assert!(case.organs[at(z + z0, y + y0, x + x0)] & bit != 0, "{organ:?} at {z} {y} {x}");
            count += 1;
        }
        assert_eq!(case.organs.iter().filter(|bits| **bits & bit != 0).count(), count, "{organ:?}");
    }
    assert_eq!(case.annotated, organs);
}

/// Three supine patients, one prone, one feet first: added, listed, checked, split, shown, exported, added again.
#[test]
fn from_planning_cts_to_a_data_set_and_on_to_nnunet_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (source, data) = (folder.path().join("plans"), folder.path().join("heads"));
    for (seed, position) in [(1, "HFS"), (2, "HFS"), (3, "HFP"), (4, "FFS"), (5, "HFS")] {
        patient(&source, seed, position);
    }
    let dry = folder.path().join("dry");
    assert!(success(add(&source, &dry, &["--dry-run"])).contains("5 cases would be taken"));
    assert!(!dry.exists());
    let said = success(add(&source, &data, &["--licence", "Clinic of test, own use"]));
    assert!(said.contains("5 cases of 5 patients (train 3, validation 1, test 1)"), "{said}");

    let index = std::fs::read_to_string(data.join("dataset.json")).unwrap();
    for private in ["PHANTOM", "SEED", "Doe", "John"] {
        assert!(!index.contains(private), "{private} in {index}");
    }
    let listed = success(oarlock(&["dataset", "list"], &[&data]));
    assert!(listed.contains("Parotid L") && listed.contains("Clinic of test"), "{listed}");
    let dataset = Dataset::open(&data).unwrap();
    let cases: Vec<Case> = dataset.cases(None).iter().map(|case| case.read_as_drawn().unwrap()).collect();
    let mut found = 0;
    for seed in 1..=5 {
        let from = source.join(format!("Doe_John_{seed}"));
        let sum = |hu: &Array3<i16>| hu.iter().map(|hu| i64::from(*hu)).sum::<i64>();
        let wanted = sum(&HuVolume::read(&CtSeries::from_folder(&from.join("ct")).unwrap()).unwrap().hu);
        for case in cases.iter().filter(|case| sum(&case.hu) == wanted) {
            is_the_same_patient(case, &from.join("ct"), &from.join("truth.dcm"));
            found += 1;
        }
    }
    assert_eq!(found, 5);

    success(oarlock(&["dataset", "check"], &[&data]));
    let again = add(&source, &data, &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("in the data set already"), "{}", text(&again));
    assert_eq!(std::fs::read_to_string(data.join("dataset.json")).unwrap(), index);
    no_part_is_left(&data);

    let exported = folder.path().join("Dataset042_Heads");
    let organs = "--organs=ParotidL,ParotidR,Mandible,BrainStem,SpinalCord,TemporalLobeR";
    success(oarlock(&["dataset", "export", organs, "--output", exported.to_str().unwrap()], &[&data]));
    let back = folder.path().join("back");
    let said = success(add(&exported, &back, &[]));
    assert!(said.contains("5 cases of 5 patients"), "{said}");
    let names = [
        Organ::ParotidL,
        Organ::ParotidR,
        Organ::Mandible,
        Organ::BrainStem,
        Organ::SpinalCord,
        Organ::TemporalLobeR,
    ];
    let wanted = names.into_iter().fold(OrganSet::EMPTY, |set, organ| set.union(OrganSet::of(organ)));
    for case in Dataset::open(&back).unwrap().cases(None) {
        let first = dataset.case(case.name()).unwrap();
        if first.entry().part == Some(Part::Test) {
            assert_eq!(case.entry().part, Some(Part::Test));
        }
        let (before, after) = (first.read_as_drawn().unwrap(), case.read_as_drawn().unwrap());
        assert_eq!((&after.hu, after.annotated), (&before.hu, wanted));
        assert_eq!(after.organs, before.organs.mapv(|bits| bits & wanted.bits()));
    }

    success(oarlock(&["dataset", "split", "--seed", "7", "--validation", "0.4", "--test", "0"], &[&data]));
    let dataset = Dataset::open(&data).unwrap();
    assert_eq!((dataset.cases(Some(Part::Train)).len(), dataset.cases(Some(Part::Validation)).len()), (3, 2));
    let one = dataset.index().cases[3].id.clone();
    let shown =
        Command::new(env!("CARGO_BIN_EXE_oarlock")).args(["dataset", "show"]).arg(&data).arg(&one).output();
    let said = success(shown.unwrap());
    assert!(said.contains(&one) && said.contains("Mandible"), "{said}");
    let picture = std::fs::read(data.join("pictures").join(format!("{one}.png"))).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    assert!(std::fs::read_to_string(data.join("pictures/index.html")).unwrap().contains(&one));

    let file = data.join("cases").join(&one).join("organs.nii.gz");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let broken = oarlock(&["dataset", "check"], &[&data]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(
        text(&broken).contains(&format!("broken {one}: organs.nii.gz is not what was imported")),
        "{}",
        text(&broken)
    );
}

/// Cases are read and written several at a time; of two of the same image the first by name is taken, whichever was done
/// first, and what was written of the others is gone.
#[test]
fn of_one_image_twice_the_first_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (source, data) = (folder.path().join("plans"), folder.path().join("heads"));
    for (name, shift) in [("a", 0), ("b", 1), ("c", 0), ("d", 1), ("e", 0), ("f", 2)] {
        brick_ct(&source.join(name).join("img.nrrd"), "short", shift);
        brick_mask(
            &source.join(name).join("structures/Mandible.nrrd"),
            &[[[10.0, 30.0], [-48.0, -12.0], [20.0, 55.0]]],
        );
    }
    let said = add(&source, &data, &["--licence", "made up"]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said));
    for (refused, taken) in [("c", "a"), ("d", "b"), ("e", "a")] {
        let words = format!("refused {refused}: the same image is in the data set already, as {taken}");
        assert!(text(&said).contains(&words), "{words:?} is not in\n{}", text(&said));
    }
    let dataset = Dataset::open(&data).unwrap();
    let names: Vec<_> = dataset.cases(None).iter().map(|case| case.name().to_owned()).collect();
    assert_eq!(names, ["a", "b", "f"]);
    no_part_is_left(&data);
}

#[test]
fn each_fault_has_its_own_words_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let good = patient(folder.path(), 11, "HFS");
    let data = folder.path().join("data");
    let mut n = 0;
    // A copy of the good case that something was done to.
    let mut spoilt = |spoil: &dyn Fn(&Path, &Path)| {
        n += 1;
        let case = folder.path().join(format!("case{n}"));
        std::fs::create_dir_all(case.join("ct")).unwrap();
        for entry in std::fs::read_dir(good.join("ct")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, case.join("ct").join(path.file_name().unwrap())).unwrap();
        }
        std::fs::copy(good.join("truth.dcm"), case.join("truth.dcm")).unwrap();
        spoil(&case.join("ct"), &case.join("truth.dcm"));
        case
    };
    let missing = spoilt(&|ct, _| std::fs::remove_file(ct.join("CT0020.dcm")).unwrap());
    refused(add(&missing, &data, &[]), &data, "missing slices");

    let cut = spoilt(&|ct, _| {
        let path = ct.join("CT0020.dcm");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    refused(add(&cut, &data, &[]), &data, "is damaged, so a slice may be missing");

    let other = patient(folder.path(), 12, "HFS");
    let strange = spoilt(&|_, truth| {
        std::fs::copy(other.join("truth.dcm"), truth).unwrap();
    });
    refused(add(&strange, &data, &[]), &data, "another frame of reference");

    let left = number(&good.join("truth.dcm"), "Parotid_L");
    let is_left = |item: &InMemDicomObject| {
        item.element(tags::REFERENCED_ROI_NUMBER).unwrap().to_str().unwrap().trim() == left
    };
    let doubled = spoilt(&|_, truth| {
        change(truth, |set| {
            items(set, tags::STRUCTURE_SET_ROI_SEQUENCE, |roi| {
                if roi.element(tags::ROI_NAME).unwrap().to_str().unwrap().trim() == "Parotid_R" {
                    roi.put_str(tags::ROI_NAME, VR::LO, "L Parotid");
                }
            });
        });
    });
    refused(
        add(&doubled, &data, &[]),
        &data,
        "\"Parotid_L\" and \"L Parotid\" are all ParotidL: join them in the map",
    );

    let empty = spoilt(&|_, truth| {
        change(truth, |set| {
            items(set, tags::ROI_CONTOUR_SEQUENCE, |item| {
                if is_left(item) {
                    item.remove_element(tags::CONTOUR_SEQUENCE);
                }
            });
        });
    });
    refused(
        add(&empty, &data, &[]),
        &data,
        "Parotid_L (ParotidL) is empty: the structure set holds no closed contour",
    );

    // 600 mm to the left of where it is: beside the image, on its planes.
    let outside = spoilt(&|_, truth| {
        change(truth, |set| {
            items(set, tags::ROI_CONTOUR_SEQUENCE, |item| {
                if is_left(item) {
                    items(item, tags::CONTOUR_SEQUENCE, |contour| {
                        let mut points =
                            contour.element(tags::CONTOUR_DATA).unwrap().to_multi_float64().unwrap();
                        points.iter_mut().step_by(3).for_each(|x| *x += 600.0);
                        let points: Vec<String> = points.iter().map(|mm| format!("{mm:.3}")).collect();
                        let points = PrimitiveValue::Strs(points.into());
                        contour.put(DataElement::new(tags::CONTOUR_DATA, VR::DS, points));
                    });
                }
            });
        });
    });
    refused(add(&outside, &data, &[]), &data, "Parotid_L (ParotidL) lies outside the image");

    let two = spoilt(&|_, truth| {
        let second = truth.with_file_name("two.dcm");
        std::fs::copy(truth, &second).unwrap();
        change(&second, |set| drop(set.put_str(tags::STRUCTURE_SET_LABEL, VR::SH, "Second reader")));
    });
    refused(
        add(&two, &data, &[]),
        &data,
        "2 structure sets belong to one CT, with the labels \"Phantom truth\", \"Second reader\"",
    );
    success(add(&two, &folder.path().join("second"), &["--label", "second reader"]));

    let nothing = folder.path().join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    refused(add(&nothing, &data, &[]), &data, "no case in");

    // With a parotid left out, the others are taken; alone it is no set to train on.
    let said = success(add(&outside, &data, &["--leave-out"]));
    assert!(said.contains("left out: Parotid_L") && said.contains("nobody said on which licence"), "{said}");
    let dataset = Dataset::open(&data).unwrap();
    let annotated = dataset.cases(None)[0].entry().drawn();
    assert!(!annotated.contains(Organ::ParotidL) && annotated.contains(Organ::ParotidR));
    for command in [["dataset", "check"], ["dataset", "split"]] {
        let alone = oarlock(&command, &[&data]);
        assert_eq!(alone.status.code(), Some(1));
        assert!(text(&alone).contains("holds one case of one patient"), "{}", text(&alone));
    }
    assert_eq!(oarlock(&["dataset", "list"], &[&nothing]).status.code(), Some(1));
}

/// An attached NRRD with raw voxels, sizes and directions fastest axis first, LPS.
fn nrrd(
    path: &Path,
    kind: &str,
    sizes: [usize; 3],
    directions: [[f64; 3]; 3],
    origin: [f64; 3],
    voxels: &[u8],
) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let vector = |v: [f64; 3]| format!("({},{},{})", v[0], v[1], v[2]);
    let header = format!(
        "NRRD0004\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: {} {} {}\nspace directions: {} {} {}\nkinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: {}\n\n",
        sizes[0],
        sizes[1],
        sizes[2],
        vector(directions[0]),
        vector(directions[1]),
        vector(directions[2]),
        vector(origin)
    );
    std::fs::write(path, [header.as_bytes(), voxels].concat()).unwrap();
}

/// A CT whose columns run to the right, rows to anterior and slices downwards: 30 x 34 x 26 voxels of 5 x 6 x 7 mm. A
/// brick of bone lies at x 10..30, y -48..-12, z 20..55 mm.
fn brick_ct(path: &Path, kind: &str, shift: i16) {
    let (sizes, origin) = ([30, 34, 26], [72.5, 99.0, 80.5]);
    let mut bytes = Vec::new();
    for k in 0..26 {
        for j in 0..34 {
            for i in 0..30 {
                let [x, y, z] =
                    [72.5 - 5.0 * f64::from(i), 99.0 - 6.0 * f64::from(j), 80.5 - 7.0 * f64::from(k)];
                let bone =
                    (10.0..30.0).contains(&x) && (-48.0..-12.0).contains(&y) && (20.0..55.0).contains(&z);
                let hu = if bone { 700 + shift } else { -1000 + (k + j) as i16 };
                match kind {
                    "short" => bytes.extend(hu.to_le_bytes()),
                    _ => bytes.extend((if bone { f32::NAN } else { f32::from(hu) }).to_le_bytes()),
                }
            }
        }
    }
    let directions = [[-5.0, 0.0, 0.0], [0.0, -6.0, 0.0], [0.0, 0.0, -7.0]];
    nrrd(path, kind, sizes, directions, origin, &bytes);
}

/// A mask on a grid of its own, 2.5 x 2 x 3.5 mm, that covers `[low, high]` in x, y and z.
fn brick_mask(path: &Path, boxes: &[[[f64; 2]; 3]]) {
    let (sizes, origin) = ([80, 60, 40], [-98.75, -71.0, -28.25]);
    let mut voxels = Vec::new();
    for k in 0..40 {
        for j in 0..60 {
            for i in 0..80 {
                let at =
                    [-98.75 + 2.5 * f64::from(i), -71.0 + 2.0 * f64::from(j), -28.25 + 3.5 * f64::from(k)];
                let inside =
                    boxes.iter().any(|b| (0..3).all(|axis| at[axis] >= b[axis][0] && at[axis] < b[axis][1]));
                voxels.push(u8::from(inside));
            }
        }
    }
    nrrd(path, "uchar", sizes, [[2.5, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.5]], origin, &voxels);
}

/// Middle of an organ's voxels, x, y, z, mm.
fn middle(case: &Case, organ: Organ) -> [f64; 3] {
    let bit = OrganSet::of(organ).bits();
    let at = |(z, y, x): (usize, usize, usize)| {
        let p = case.grid.patient_from_voxel(VoxelPoint { z: z as f64, y: y as f64, x: x as f64 });
        [p.x, p.y, p.z]
    };
    let all: Vec<[f64; 3]> = case
        .organs
        .indexed_iter()
        .filter(|(_, bits)| **bits & bit != 0)
        .map(|(place, _)| at(place))
        .collect();
    std::array::from_fn(|axis| all.iter().map(|p| p[axis]).sum::<f64>() / all.len() as f64)
}

/// Halves of a mandible in HaN-Seg's layout, eyes of two parts; masks on another grid, an image whose axes all run the
/// other way. The places and volumes are those of the bricks.
#[test]
fn files_of_one_mask_per_organ_are_placed_by_their_coordinates() {
    let folder = tempfile::tempdir().unwrap();
    let (source, data) = (folder.path().join("set_1"), folder.path().join("data"));
    for (n, name) in [(0, "case_01"), (1, "case_02"), (2, "case_03")] {
        let file = |what: &str| source.join(name).join(format!("{name}_{what}.seg.nrrd"));
        brick_ct(&source.join(name).join(format!("{name}_IMG_CT.nrrd")), "short", n);
        brick_mask(&file("OAR_Bone_Mandible"), &[[[10.0, 30.0], [-48.0, -12.0], [20.0, 55.0]]]);
        brick_mask(&file("OAR_Eye_AL"), &[[[-50.0, -40.0], [-48.0, -36.0], [-21.0, 0.0]]]);
        brick_mask(&file("OAR_Eye_PL"), &[[[-40.0, -30.0], [-48.0, -36.0], [-21.0, 0.0]]]);
        brick_mask(&file("OAR_Eye_AR"), &[[[40.0, 50.0], [-48.0, -36.0], [-21.0, 0.0]]]);
        brick_mask(&file("OAR_Lips"), &[[[40.0, 50.0], [-48.0, -36.0], [-21.0, 0.0]]]);
    }
    let said = success(add(&source, &data, &[]));
    assert!(said.contains("EyeR is left out: of its parts Eye_AR, Eye_PR there is only Eye_AR"), "{said}");
    assert!(said.contains("placed by its coordinates") && !said.contains("Lips"), "{said}");
    let dataset = Dataset::open(&data).unwrap();
    assert!(dataset.index().notices[0].contains("HaN-Seg"));
    let stored = dataset.case("case_02").unwrap();
    let case = stored.read_as_drawn().unwrap();
    let organs: Vec<Organ> = case.annotated.iter().collect();
    assert_eq!(organs, [Organ::EyeL, Organ::Mandible]);
    assert_eq!(case.hu.dim(), (26, 34, 30));
    let v = case.grid.voxel_from_patient(PatientPoint::lps_mm(17.5, -33.0, 31.5));
    assert_eq!(case.hu[[v.z, v.y, v.x].map(|at| at.round() as usize)], 701);
    for (organ, wanted) in [(Organ::Mandible, [20.0, -30.0, 37.5]), (Organ::EyeL, [-40.0, -42.0, -10.5])] {
        let found = middle(&case, organ);
        // Half a voxel of the image on each axis.
        for (axis, mm) in [2.5, 3.0, 3.5].into_iter().enumerate() {
            assert!((found[axis] - wanted[axis]).abs() <= mm, "{organ:?} at {found:?}");
        }
    }
    let cm3 = stored.entry().organs["Mandible"].cm3;
    assert!((cm3 - 20.0 * 36.0 * 35.0 / 1000.0).abs() < 0.1 * 25.2, "{cm3}");
    assert_eq!(stored.entry().organs["EyeL"].from, ["Eye_AL", "Eye_PL"]);

    // The same image under another name is the same image.
    let copy = folder.path().join("copy");
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::rename(source.join("case_01"), copy.join("case_01")).unwrap();
    let known = add(&copy, &data, &[]);
    assert!(
        known.status.code() == Some(1) && text(&known).contains("already, as case_01"),
        "{}",
        text(&known)
    );
}

/// The two-label form of a pair, an image with NaN, an image that is no CT, a layout of one's own.
#[test]
fn pairs_layouts_of_ones_own_and_images_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let (source, data) = (folder.path().join("source"), folder.path().join("data"));
    brick_ct(&source.join("a/scan.nrrd"), "short", 0);
    let eyes = [[[-50.0, -30.0], [-48.0, -36.0], [-21.0, 0.0]], [[20.0, 45.0], [-48.0, -36.0], [-21.0, 0.0]]];
    brick_mask(&source.join("a/contours/roi-Eyes.nrrd"), &eyes);
    let map = folder.path().join("mine.yaml");
    std::fs::write(
        &map,
        "files: { image: scan, organ: \"contours/roi-{organ}\" }\npairs: [{ name: Eyes, left: EyeL, right: EyeR }]\n",
    )
    .unwrap();
    let with_map = ["--map", map.to_str().unwrap()];
    success(add(&source, &data, &with_map));
    let case = Dataset::open(&data).unwrap().case("a").unwrap().read_as_drawn().unwrap();
    assert!(middle(&case, Organ::EyeL)[0] > 25.0 && middle(&case, Organ::EyeR)[0] < -30.0);

    let bad = folder.path().join("bad");
    brick_ct(&bad.join("b/img.nrrd"), "float", 0);
    brick_mask(&bad.join("b/structures/Mandible.nrrd"), &[[[10.0, 30.0], [-48.0, -12.0], [20.0, 55.0]]]);
    let none = folder.path().join("none");
    refused(add(&bad, &none, &[]), &none, "a voxel is NaN or infinite");
    brick_ct(&bad.join("b/img.nrrd"), "short", 0);
    brick_mask(&bad.join("b/structures/Larynx.nrrd"), &[]);
    refused(add(&bad, &none, &[]), &none, "Larynx (Larynx) is empty: its mask has no voxel");
    std::fs::remove_file(bad.join("b/structures/Larynx.nrrd")).unwrap();
    std::fs::rename(bad.join("b/structures/Mandible.nrrd"), bad.join("b/structures/Manibula.nrrd")).unwrap();
    refused(add(&bad, &none, &[]), &none, "none of its structures is one of the 28 organs");
    refused(add(&bad, &none, &["--map", "no-such-map"]), &none, "han-seg");
}

/// Limbs and lungs are no heads: their tumours stand for an organ. Volumes of `SOURCE.md`, within 2 %.
#[test]
fn real_structure_sets_have_the_volumes_that_others_found() {
    let Some(shared) = shared_data("real_structure_sets") else { return };
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.yaml");
    std::fs::write(&map, "organs: { GTV-1: Larynx, GTV_Mass_CT: OralCavity }\n").unwrap();
    let data = folder.path().join("data");
    for set in ["radiomics-phantom", "sts-ct-rtstruct"] {
        success(add(&shared.join(set), &data, &["--map", map.to_str().unwrap(), "--as-drawn"]));
    }
    let dataset = Dataset::open(&data).unwrap();
    let wanted: BTreeMap<[usize; 3], f64> = [
        ([60, 201, 204], 358.66),
        ([46, 137, 136], 11.40),
        ([59, 202, 198], 365.17),
        ([48, 143, 161], 53.27),
        ([85, 183, 173], 296.06),
    ]
    .into();
    assert_eq!(dataset.index().cases.len(), wanted.len());
    for case in &dataset.index().cases {
        let (organ, found) = case.organs.first_key_value().unwrap();
        let wanted = wanted[&case.shape];
        assert!((found.cm3 / wanted - 1.0).abs() < 0.02, "{organ}: {} of {wanted} cm3", found.cm3);
        assert!(!found.set_aside);
    }
    assert!(
        dataset
            .index()
            .cases
            .iter()
            .any(|case| case.notes.iter().any(|n| n.contains("are not in the folder")))
    );

    let none = folder.path().join("none");
    refused(add(&shared.join("plastimatch-thorax"), &none, &[]), &none, "only 1 slice");
    refused(add(&shared.join("rtstruct-only"), &none, &[]), &none, "another frame of reference");
}

/// OpenKBP is one more layout; its publisher's parts are kept.
#[test]
fn open_kbp_comes_in_with_its_parts() {
    let Some(shared) = shared_data("open_kbp_comes_in") else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("openkbp");
    for (part, patients) in [("train", ["pt_1", "pt_2"]), ("validation", ["pt_201", "pt_202"])] {
        let from = shared.join("openkbp").join(part);
        let manifest = std::fs::read_to_string(from.join("manifest.csv")).unwrap();
        let lines: Vec<&str> = manifest
            .lines()
            .enumerate()
            .filter(|(n, line)| *n == 0 || patients.iter().any(|p| line.split(',').any(|field| field == *p)))
            .map(|(_, line)| line)
            .collect();
        std::fs::create_dir_all(source.join(part)).unwrap();
        std::fs::write(source.join(part).join("manifest.csv"), lines.join("\n") + "\n").unwrap();
        for patient in patients.iter().filter(|patient| from.join(patient).is_dir()) {
            let to = source.join(part).join(patient);
            std::fs::create_dir_all(&to).unwrap();
            for file in ["ct_raw.nii.gz", "labels.nii.gz"] {
                std::fs::copy(from.join(patient).join(file), to.join(file)).unwrap();
            }
        }
    }
    let data = folder.path().join("data");
    let said = success(add(&source, &data, &[]));
    let dataset = Dataset::open(&data).unwrap();
    assert!(dataset.index().notices[0].contains("MIT"), "{said}");
    let case = dataset.case("pt_1").unwrap();
    assert_eq!(case.entry().part, Some(Part::Train));
    assert!(!dataset.cases(Some(Part::Validation)).is_empty() && dataset.cases(Some(Part::Test)).is_empty());
    let read: Array3<u32> = case.read_as_drawn().unwrap().organs;
    let count = |organ: Organ| read.iter().filter(|bits| **bits & OrganSet::of(organ).bits() != 0).count();
    assert_eq!((count(Organ::ParotidL), count(Organ::ParotidR)), (298, 136));
}

/// Two steps on a data set, which choose by its validation part and are measured on its test part; then the shipped
/// model on that part.
#[test]
fn a_data_set_is_trained_on_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let (source, data) = (folder.path().join("plans"), folder.path().join("heads"));
    for seed in 21..24 {
        patient(&source, seed, "HFS");
    }
    success(add(&source, &data, &["--licence", "Clinic of test, own use"]));
    let starter =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/starter.yaml")).unwrap();
    let mut recipe = String::new();
    let mut inside = "";
    for line in starter.lines() {
        if !line.starts_with(' ') {
            inside = line.split(':').next().unwrap();
        }
        let value =
            |key: &str, value: &str| line.trim_start().starts_with(key).then(|| format!("  {key} {value}"));
        let line = match inside {
            "sources" if line.starts_with("sources") => {
                format!("sources:\n  datasets: [{{ folder: {}, share: 1 }}]", data.display())
            }
            "sources" => continue,
            "output" => format!("output: {}", folder.path().join("run").display()),
            "crop" => "crop: [48, 48, 48]".to_owned(),
            "steps" => "steps: 2".to_owned(),
            "time_limit_s" | "start_from" => continue,
            _ => value("refinement_from_step:", "1")
                .or_else(|| value("mask_from_step:", "1"))
                .or_else(|| value("validation_from_step:", "2"))
                .or_else(|| value("validation_steps:", "2"))
                .unwrap_or_else(|| line.to_owned()),
        };
        recipe.push_str(&line);
        recipe.push('\n');
    }
    let path = folder.path().join("recipe.yaml");
    std::fs::write(&path, recipe).unwrap();
    let foreseen = success(oarlock(&["train", "--dry-run", "--config"], &[&path]));
    assert!(foreseen.contains("1 patients to train on and 2 held out read without fault"), "{foreseen}");
    let said = success(oarlock(&["train", "--config"], &[&path]));
    assert!(said.contains("step 2: validation, mean DSC over organs"), "{said}");
    let model = folder.path().join("run/model");
    let card = std::fs::read_dir(&model)
        .unwrap()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().ends_with(".card.md"));
    let card = std::fs::read_to_string(card.unwrap().path()).unwrap();
    assert!(card.contains("- Clinic of test, own use") && card.contains("Dice on 1 patients"), "{card}");

    let evaluated = oarlock(&["evaluate", "--json", "--data"], &[&data]);
    let report: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let dataset = Dataset::open(&data).unwrap();
    let test: Vec<String> =
        dataset.cases(Some(Part::Test)).iter().map(|case| case.name().to_owned()).collect();
    let cases: Vec<&String> = report["cases"].as_object().unwrap().keys().collect();
    assert_eq!(cases, test.iter().collect::<Vec<_>>(), "{report:#}");
    let nobody = folder.path().join("nobody");
    success(add(&source.join("Doe_John_21"), &nobody, &[]));
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("heads, share", "nobody, share"))
        .unwrap();
    let alone = oarlock(&["train", "--dry-run", "--config"], &[&path]);
    assert!(
        alone.status.code() == Some(1) && text(&alone).contains("one case of one patient"),
        "{}",
        text(&alone)
    );
}
