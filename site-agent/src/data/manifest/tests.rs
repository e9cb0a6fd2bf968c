//! What a manifest means and what is wrong with one.

use proptest::prelude::*;

use super::*;

fn csv(text: &str) -> Result<Vec<Row>, Error> {
    parse(text.as_bytes(), Format::Csv).map(|manifest| manifest.rows)
}

fn toml(text: &str) -> Result<Vec<Row>, Error> {
    parse(text.as_bytes(), Format::Toml).map(|manifest| manifest.rows)
}

fn expected() -> Row {
    Row {
        line: 2,
        case: "A-1".into(),
        patient: Some("Anna".into()),
        scans: [Some("a/t1.nii.gz".into()), None, None, Some("a/flair".into())],
        segmentation: Some("a/tumour.nii.gz".into()),
        labels: Some(LabelScheme::Brats2021),
    }
}

#[test]
fn csv_and_toml_say_the_same() {
    let table = "case,patient,t1n,t1c,t2f,seg,labels\n\
                 A-1, Anna ,a/t1.nii.gz,,a/flair,a/tumour.nii.gz,brats2021\n";
    assert_eq!(csv(table).unwrap(), [expected()]);
    let toml_text = "# a comment\n[[cases]]\ncase = \"A-1\"\npatient = \"Anna\"\n\
                     t1n = \"a/t1.nii.gz\"\nt2f = \"a/flair\"\nseg = \"a/tumour.nii.gz\"\n\
                     labels = \"brats2021\"\n";
    assert_eq!(toml(toml_text).unwrap(), [expected()]);
}

#[test]
fn what_the_labels_of_all_cases_mean_is_said_once_and_a_case_may_say_otherwise() {
    let text = "labels = \"brats2023\"\n[[cases]]\ncase = \"A\"\nseg = \"s\"\n\
                [[cases]]\ncase = \"B\"\nlabels = \"lesion\"\n";
    let labels: Vec<_> = toml(text).unwrap().into_iter().filter_map(|row| row.labels).collect();
    assert_eq!(labels, [LabelScheme::Brats2023, LabelScheme::Lesion]);
    let alone = parse(b"labels = \"lesion\"", Format::Toml).unwrap();
    assert_eq!(alone, Manifest { rows: Vec::new(), labels: Some(LabelScheme::Lesion) });
    let error = toml("# x\nlabels = \"brats\"").unwrap_err().to_string();
    assert_eq!(
        error,
        "line 2, labels: \"brats\" is no label scheme: brats2021, brats2023, brats_post or lesion"
    );
}

#[test]
fn a_spreadsheets_marks_semicolons_quotes_and_comments_are_understood() {
    let table = "\u{feff}case;patient;t1n;t2f;seg;labels\r\n\
                 A-1;Anna;a/t1.nii.gz;a/flair;\"a/tumour.nii.gz\";brats2021\r\n# the end\r\n";
    assert_eq!(csv(table).unwrap(), [expected()]);
}

#[test]
fn an_error_names_the_line_and_the_field() {
    for (table, told) in [
        ("# no case\n\ncase,t1n\nA,x\r\n\r\n# none\nB,x\nC,x,y\n", "line 8: 3 fields, "),
        ("case,t1n\nA,x\nB,x,y\n", "line 3: 3 fields, the first line has 2 columns"),
        ("case,t1\nA,x\n", "\"t1\""),
        ("case,t1n,t1n\nA,x,y\n", "\"t1n\""),
        ("patient,t1n\nA,x\n", "no column `case`"),
        ("", "no column `case`"),
        ("case,t1n\n\n,x\n", "line 3, case: \"\" is empty"),
        ("case,t1n\n../A,x\n", "line 2, case: \"../A\" begins with a dot"),
        ("case,t1n\na/b,x\n", "line 2, case"),
        ("case,patient,t1n\nA,b\tc,x\n", "line 2, patient"),
        ("case,t1n,labels\nA,x,brats\n", "line 2, labels: \"brats\" is no label scheme"),
    ] {
        let error = csv(table).unwrap_err().to_string();
        assert!(error.contains(told), "{table:?}: {error}");
    }
    for (text, told) in [
        ("[[cases]]\ncase = \"A\"\nt1 = \"x\"\n", "line 3: unknown field `t1`"),
        ("[[cases]]\nt1n = \"x\"\n", "line 1: missing field `case`"),
        ("[[cases]]\ncase = 7\n", "line 2: invalid type"),
        ("cases = [\n", "line "),
        ("\n[[cases]]\ncase = \"A\"\nt1n = \"\"\n", "line 2, t1n: \"\" is empty"),
    ] {
        let error = toml(text).unwrap_err().to_string();
        assert!(error.contains(told) && !error.contains('\n'), "{text:?}: {error}");
    }
    let not_text = parse(b"case\nA\n\xff", Format::Csv);
    assert_eq!(not_text, Err(Error::NotUtf8 { line: 3 }));
}

#[test]
fn what_is_too_large_or_too_long_is_refused() {
    let huge = vec![b' '; BYTES_MAX + 1];
    assert_eq!(parse(&huge, Format::Csv), Err(Error::TooLarge(BYTES_MAX + 1)));
    let rows = "case,t1n\n".to_owned() + &"A,x\n".repeat(ROWS_MAX + 1);
    assert_eq!(csv(&rows), Err(Error::TooManyRows { line: ROWS_MAX + 2 }));
    let (name, path) = ("n".repeat(NAME_BYTES_MAX + 1), "p".repeat(PATH_BYTES_MAX + 1));
    let error = csv(&format!("case,t1n\n{name},x\n")).unwrap_err().to_string();
    assert!(error.contains("128 bytes") && error.len() < 120, "{error}");
    let error = csv(&format!("case,t1n\nA,{path}\n")).unwrap_err().to_string();
    assert!(error.contains("t1n") && error.contains("1024 bytes"), "{error}");
}

#[test]
fn the_samples_that_are_shipped_are_read() {
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    if !deploy.is_dir() {
        println!("../deploy is absent, so its samples are not read");
        return;
    }
    let sample = |name: &str| std::fs::read(deploy.join(name)).unwrap();
    let table = parse(&sample("manifest.csv"), Format::Csv).unwrap();
    let text = parse(&sample("manifest.toml"), Format::Toml).unwrap();
    assert_eq!(table.rows.len(), 3);
    let without_lines = |manifest: Manifest| -> Vec<Row> {
        manifest.rows.into_iter().map(|row| Row { line: 0, ..row }).collect()
    };
    assert_eq!(without_lines(table), without_lines(text), "the two samples differ");
}

proptest! {
    #[test]
    fn whatever_the_bytes_there_is_an_answer_and_names_stay_fit_for_files(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        head in prop::sample::select(vec!["", "case,t1n\n", "[[cases]]\ncase = \"", "case;seg\n"]),
    ) {
        let text = [head.as_bytes(), &bytes].concat();
        for format in [Format::Csv, Format::Toml] {
            if let Ok(manifest) = parse(&text, format) {
                for row in manifest.rows {
                    prop_assert!(!row.case.is_empty() && !row.case.contains('/'));
                    prop_assert!(row.line >= 1);
                }
            }
        }
    }
}
