//! The texts of errors in policy files.
#![cfg(feature = "policy-file")]

use tower_oidc_guard::{Issuer, OidcGuard, PolicyError, PolicyFile, PolicyFileError};

/// Returns the error of a file with this content, after the path of its directory.
fn check_error(content: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop.yaml");
    std::fs::write(&path, content).unwrap();
    let text = match PolicyFile::check(&path) {
        Ok(summary) => format!("{summary}"),
        Err(error) => error.to_string(),
    };
    text.replace(&format!("{}/", directory.path().display()), "")
}

fn assert_errors(cases: &[(&str, &str)]) {
    let found = |(content, expected): &(&str, &str)| {
        let text = check_error(content.as_bytes());
        (text != *expected)
            .then(|| format!("{content:?}\n  found    {text}\n  expected {expected}"))
    };
    let wrong: Vec<_> = cases.iter().filter_map(found).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const IN_TOKENS: &str = "allow:\n  - issuer: https://c.example\n    members:\n";

#[test]
fn members_audiences_and_claims_are_reported_with_their_position() {
    let of_issuer = format!("{IN_TOKENS}      - system:serviceaccounts\n      - gke-sa\n");
    let not_of_issuer = format!("{IN_TOKENS}      - allUsers\n");
    assert_errors(&[
        (
            "# Shop\nallow:\n  - system:serviceaccounts:shop\n  -   system:serviceacount:shop:web\n",
            "shop.yaml:4:7: the member \"system:serviceacount:shop:web\" has no known form; did you mean \"system:serviceaccount:shop:web\"?; the forms are allUsers, allAuthenticatedUsers, system:authenticated, system:serviceaccounts, system:serviceaccounts:<namespace>, system:serviceaccount:<namespace>:<name>, serviceAccount:<email>, user:<email> and principal:<issuer>#<subject>",
        ),
        (
            "{\n  \"allow\": [\n    \"allUsers\", \"alUsers\"\n  ]\n}",
            "shop.yaml:3:17: the member \"alUsers\" has no known form; did you mean \"allUsers\"?; the forms are allUsers, allAuthenticatedUsers, system:authenticated, system:serviceaccounts, system:serviceaccounts:<namespace>, system:serviceaccount:<namespace>:<name>, serviceAccount:<email>, user:<email> and principal:<issuer>#<subject>",
        ),
        (
            &of_issuer,
            "shop.yaml:5:9: the member \"gke-sa\" has no known form; the forms are allUsers, allAuthenticatedUsers, system:authenticated, system:serviceaccounts, system:serviceaccounts:<namespace>, system:serviceaccount:<namespace>:<name>, serviceAccount:<email>, user:<email> and principal:<issuer>#<subject>",
        ),
        (
            &not_of_issuer,
            "shop.yaml:4:9: the member \"allUsers\" is listed for the issuer \"https://c.example\", to which it does not belong; move it out of that list (in code, combine `Policy::members` and `Policy::members_of` with `Policy::any_of`)",
        ),
        (
            "allow: []\ndeny:\n- \"system:serviceaccount:shop\"\n",
            "shop.yaml:3:3: the member \"system:serviceaccount:shop\" is incomplete or has too many parts; expected the form system:serviceaccount:<namespace>:<name>; did you mean \"system:serviceaccounts:shop\"?",
        ),
        (
            "allow: [12]",
            "shop.yaml:1:9: the member \"12\" has no known form; the forms are allUsers, allAuthenticatedUsers, system:authenticated, system:serviceaccounts, system:serviceaccounts:<namespace>, system:serviceaccount:<namespace>:<name>, serviceAccount:<email>, user:<email> and principal:<issuer>#<subject>",
        ),
        (
            "allow:\n  - allUsers\n   - allAuthenticatedUsers\n",
            "shop.yaml:2:5: the member \"allUsers - allAuthenticatedUsers\" would match no caller: it contains the character U+0020; only printable ASCII without white space is allowed",
        ),
        (
            "allow: [{ issuer: \" https://c\", members: [allAuthenticatedUsers] }]",
            "shop.yaml:1:19: the policy has members of the issuer \" https://c\", which cannot be an `iss`: expected no white space or invisible character at its beginning and end",
        ),
        (
            "allow: []\naudiences: [a, \"b c\"]",
            "shop.yaml:2:16: the policy requires the audience \"b c\", which no token can have: expected visible characters, found U+0020 (white space, a control character or invisible)",
        ),
        (
            "allow: []\nclaims:\n  hd: example.com\n  tenant:\n",
            "shop.yaml:4:3: the policy cannot require the claim \"tenant\": its required value is null; require another value, or leave the claim out",
        ),
        (
            "x: &members [allUser]\nallow: *members\n",
            "shop.yaml:1:1: unknown field \"x\"; the fields of the file are `allow`, `deny`, `audiences`, `scopes`, `claims` and `issuers`",
        ),
        (
            "allow: &members [allUser]\ndeny: *members\n",
            "shop.yaml:1:18: the member \"allUser\" has no known form; did you mean \"allUsers\"?; the forms are allUsers, allAuthenticatedUsers, system:authenticated, system:serviceaccounts, system:serviceaccounts:<namespace>, system:serviceaccount:<namespace>:<name>, serviceAccount:<email>, user:<email> and principal:<issuer>#<subject>",
        ),
    ]);
}

#[test]
fn unknown_repeated_missing_and_empty_fields_are_reported_with_their_position() {
    assert_errors(&[
        (
            "allwo: []\n",
            "shop.yaml:1:1: unknown field \"allwo\"; did you mean \"allow\"? The fields of the file are `allow`, `deny`, `audiences`, `scopes`, `claims` and `issuers`",
        ),
        (
            "allow: []\nAudience: [a]\n",
            "shop.yaml:2:1: unknown field \"Audience\"; did you mean \"audiences\"? The fields of the file are `allow`, `deny`, `audiences`, `scopes`, `claims` and `issuers`",
        ),
        (
            "allow:\n  - issuer: https://c.example\n    member: [allAuthenticatedUsers]\n",
            "shop.yaml:3:5: unknown field \"member\"; did you mean \"members\"? The fields of a list of one issuer are `issuer` and `members`",
        ),
        (
            "allow: []\ndeny: [allUsers]\nallow: [allUsers]\n",
            "shop.yaml:3:1: the field \"allow\" occurs more than once; keep one of them",
        ),
        (
            "allow: []\nclaims: { hd: a, hd: b }\n",
            "shop.yaml:2:18: the field \"hd\" occurs more than once; keep one of them",
        ),
        (
            "deny: [allUsers]\n",
            "shop.yaml:1:1: the field `allow` is missing; list the members that are allowed, or write `allow: []` to allow nobody",
        ),
        (
            "",
            "shop.yaml:1:1: the file is empty; list the members that are allowed in `allow`, or write `allow: []` to allow nobody",
        ),
        (
            "# nothing yet\n",
            "shop.yaml:1:1: the file is empty; list the members that are allowed in `allow`, or write `allow: []` to allow nobody",
        ),
        (
            "allow: []\ndeny:\n",
            "shop.yaml:2:1: `deny` is null or empty, so nobody would be denied; list the members, or leave the field out",
        ),
        (
            "allow: []\ndeny:\n  -\n",
            "shop.yaml:3:4: an element of `deny` is null; write a member, or remove it",
        ),
        (
            "allow: []\nissuers:\n  - url: https://c.example\n    audiences: []\n",
            "shop.yaml:4:5: `audiences` is null or empty, so no audience would be required; list one, or (in a policy) leave the field out",
        ),
        (
            "allow: [{ members: [allAuthenticatedUsers] }]\n",
            "shop.yaml:1:9: the field `issuer` is missing; write the `iss` of the issuer that the members belong to",
        ),
        (
            "allow: []\nissuers:\n- url: https://c.example\n",
            "shop.yaml:3:3: the field `audiences` is missing; list the audiences of this service that its tokens must be for",
        ),
    ]);
}

#[test]
fn matchers_and_scopes_are_reported_with_their_position_and_what_is_expected() {
    let fields = "`equals`, `one_of`, `prefix`, `glob`, `contains` and `all_of`";
    let object = "if the claim must be an object with this field, write that object in `equals`";
    let cases = [
        (
            "{ prefx: a }",
            format!("10: unknown field \"prefx\"; did you mean \"prefix\"? The fields of a matcher are {fields}; {object}"),
        ),
        (
            "{ oneof: [a] }",
            format!("10: unknown field \"oneof\"; did you mean \"one_of\"? The fields of a matcher are {fields}; {object}"),
        ),
        (
            "{ prefix: a, sub: b }",
            format!("21: unknown field \"sub\"; the fields of a matcher are {fields}; {object}"),
        ),
        (
            "{ prefix: \"\" }",
            "10: the policy cannot require the claim \"ref\": its `prefix` is empty, and every text begins with it; write how the claim has to begin, or leave the claim out".to_owned(),
        ),
        ("{ prefix: 12 }", "18: `prefix` must be text, found the number 12; write it in quotes: `prefix: \"12\"`".to_owned()),
        ("{ glob: true }", "16: `glob` must be text, found the truth value true; write it in quotes: `glob: \"true\"`".to_owned()),
        ("{ glob: [a] }", "16: `glob` must be text, found a list".to_owned()),
        ("{ glob: }", "10: `glob` is null; give it a value, or leave it out".to_owned()),
        (
            "{ glob: 'a\\b' }",
            "10: the policy cannot require the claim \"ref\": its `glob` has a `\\` that is not followed by `*`, `?` or `\\`; write `\\\\` for a backslash".to_owned(),
        ),
        ("{ one_of: [] }", "10: `one_of` is null or empty; list at least one value or matcher".to_owned()),
        ("{ one_of: a }", "18: `one_of` must be a list, found the text \"a\"; write `one_of: [\"a\"]`".to_owned()),
        ("{ one_of: [a, ] }", String::new()),
        ("{ one_of: [a, ~] }", "22: an element of `one_of` is null; give it a value, or remove it".to_owned()),
        ("{ all_of: [{ prefix: a }, { glob: \"\" }] }", "36: the policy cannot require the claim \"ref\": its `glob` is empty; write a pattern, or leave the claim out".to_owned()),
        (
            "{ contains: [a, b] }",
            "20: `contains` must be one value or a matcher, found a list; write `contains: { one_of: [\u{2026}] }` if one of the elements is enough, or `all_of: [{ contains: \u{2026} }, \u{2026}]` if all are required".to_owned(),
        ),
        ("{ contains: ~ }", "10: `contains` is null; give it a value, or leave it out".to_owned()),
        ("{ equals: ~ }", "10: `equals` is null; give it a value, or leave it out".to_owned()),
        ("{ prefix: a, prefix: b }", "21: the field \"prefix\" occurs more than once; keep one of them".to_owned()),
        ("~", "3: the policy cannot require the claim \"ref\": its required value is null; require another value, or leave the claim out".to_owned()),
    ];
    for (value, expected) in cases {
        let found = check_error(format!("allow: []\nclaims:\n  ref: {value}\n").as_bytes());
        if expected.is_empty() {
            assert!(found.contains("the policy is valid"), "{value}: {found}");
        } else {
            assert_eq!(found, format!("shop.yaml:3:{expected}"), "{value}");
        }
    }
    assert_errors(&[
        (
            "allow: []\nclaims:\n  /a~b: c\n",
            "shop.yaml:3:3: the policy cannot require the claim \"/a~b\": a name that begins with `/` is a JSON pointer, in which `~` is written `~0` and `/` in the name of a member `~1`",
        ),
        (
            "allow: []\nscopes: [a, \"b c\"]\n",
            "shop.yaml:2:13: the policy requires the scope \"b c\", which no token can have: it contains a space, which separates scopes; require each scope by itself",
        ),
        (
            "allow: []\nscopes: a b\n",
            "shop.yaml:2:9: `scopes` must be a list, found the text \"a b\"; write `scopes: [\"a b\"]`",
        ),
        (
            "allow: []\nscopes:\n",
            "shop.yaml:2:1: `scopes` is null or empty, so no scope would be required; list those to require, or leave the field out",
        ),
    ]);
}

#[test]
fn text_after_the_mapping_is_reported_with_its_position() {
    assert_errors(&[
        (
            "{\"allow\":[\"allUsers\"]}, \"deny\":[\"system:serviceaccount:shop:evil\"]}",
            "shop.yaml:1:23: there is more text after the closing }; the file must be one mapping",
        ),
        (
            "{\"allow\":[\"allUsers\"]}\n{\"deny\":[\"system:serviceaccount:shop:evil\"]}\n",
            "shop.yaml:2:1: there is more text after the closing }; the file must be one mapping",
        ),
        (
            "{allow: [allUsers]}\ndeny: [\"system:serviceaccount:shop:evil\"]\n",
            "shop.yaml:2:1: there is more text after the closing }; the file must be one mapping",
        ),
        (
            "allow: [allUsers]\n...\n, deny: [\"system:serviceaccount:shop:evil\"]\n",
            "shop.yaml:3:1: there is more text after the value of the file; the file must be one mapping",
        ),
    ]);
}

#[tokio::test]
async fn a_guard_is_not_built_from_a_file_with_text_after_the_mapping() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard.yaml");
    let content = "{issuers: [{platform: google, audiences: [a]}], allow: [allAuthenticatedUsers]}\ndeny: [\"user:a@example.com\"]\n";
    std::fs::write(&path, content).unwrap();
    let error = tower_oidc_guard::OidcGuardBuilder::from_file(&path)
        .await
        .map(|_| ())
        .unwrap_err();
    let error = format!("{error:?}");
    assert!(
        error.contains("there is more text after the closing }"),
        "{error}"
    );
}

#[test]
fn a_kubernetes_object_is_reported_with_where_its_policy_is() {
    assert_errors(&[(
        "kind: ConfigMap\napiVersion: v1\ndata:\n  policy.yaml: |\n    allow: []\n",
        "shop.yaml:2:1: unknown field \"apiVersion\"; the file is a Kubernetes object, such as a ConfigMap. The policy is the text of one key below its `data`: save that text in a separate file, with `allow` and `deny` at the beginning of a line",
    )]);
}

#[test]
fn values_of_the_wrong_type_are_reported_with_what_to_write() {
    assert_errors(&[
        (
            "allow: allUsers\n",
            "shop.yaml:1:8: `allow` must be a list, found the text \"allUsers\"; write `allow: [\"allUsers\"]`",
        ),
        (
            "allow: |\n  allUsers\n  allAuthenticatedUsers\n",
            "shop.yaml:2:3: `allow` must be a list, found the text \"allUsers\\nallAuthenticatedUsers\\n\"; write each element of `allow` in a separate line that begins with `- `",
        ),
        (
            "allow:\n  issuer: https://c.example\n  members: [allAuthenticatedUsers]\n",
            "shop.yaml:2:3: `allow` must be a list, found a mapping with the field \"issuer\"; write each element of `allow` in a separate line that begins with `- `",
        ),
        (
            "allow: []\naudiences: https://b\n",
            "shop.yaml:2:12: `audiences` must be a list, found the text \"https://b\"; write `audiences: [\"https://b\"]`",
        ),
        (
            "allow: []\naudiences: [{ a: b }]\n",
            "shop.yaml:2:13: an element of `audiences` must be text, found a mapping with the field \"a\"",
        ),
        (
            "allow: []\nclaims: [hd]\n",
            "shop.yaml:2:9: `claims` must be a mapping, found a list; write it as `claims: { name: value }`",
        ),
        (
            "allow: []\nclaims: example.com\n",
            "shop.yaml:2:9: `claims` must be a mapping, found the text \"example.com\"; write it as `claims: { name: value }`",
        ),
        (
            "allow:\n  - user: jane@example.com\n",
            "shop.yaml:2:5: expected a member, found a mapping with the field \"user\"; a member has no space after a `:`, so write \"user:jane@example.com\"",
        ),
        (
            "allow:\n  - - allUsers\n",
            "shop.yaml:2:5: an element of `allow` must be a member, or an `issuer` with its `members`; found a list",
        ),
        (
            "allow: [{ issuer: https://c.example, members: allAuthenticatedUsers }]\n",
            "shop.yaml:1:47: `members` must be a list, found the text \"allAuthenticatedUsers\"; write `members: [\"allAuthenticatedUsers\"]`",
        ),
        (
            "allow: [{ issuer: [a], members: [allAuthenticatedUsers] }]\n",
            "shop.yaml:1:19: `issuer` must be text, found a list",
        ),
        (
            "- allUsers\n",
            "shop.yaml:1:1: expected fields, each as `name: value`, found a list; the fields of the file are `allow`, `deny`, `audiences`, `scopes`, `claims` and `issuers`",
        ),
        (
            "allow []\n",
            "shop.yaml:1:1: expected fields, each as `name: value`, found the text \"allow []\"; the fields of the file are `allow`, `deny`, `audiences`, `scopes`, `claims` and `issuers`",
        ),
    ]);
    let issuer = |fields: &str| {
        format!("allow: []\nissuers:\n- url: https://c.example\n  audiences: [a]\n  {fields}\n")
    };
    for (fields, expected) in [
        (
            "leeway_seconds: \"60\"",
            "shop.yaml:5:19: `leeway_seconds` must be a whole number of seconds, without quotes; found the text \"60\"",
        ),
        (
            "max_lifetime_seconds: -1",
            "shop.yaml:5:25: `max_lifetime_seconds` must be a whole number of seconds, without quotes; found the number -1",
        ),
        (
            "dangerous_accept_api_server_audience: 1",
            "shop.yaml:5:41: `dangerous_accept_api_server_audience` must be `true` or `false`, without quotes; found the number 1",
        ),
        (
            "platform: kubernets",
            "shop.yaml:5:13: unknown platform \"kubernets\"; did you mean `kubernetes`? Supported are `in-cluster`, `kubernetes`, `google`, `github-actions`, `gitlab` and `other`",
        ),
        (
            "algorithms: [HS256]",
            "shop.yaml:5:16: unknown algorithm \"HS256\"; did you mean `RS256`? Supported are `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, `ES512`, `EdDSA` and `Ed25519`",
        ),
        (
            "jwks_url: { a: b }",
            "shop.yaml:5:13: `jwks_url` must be text, found a mapping with the field \"a\"",
        ),
        (
            "jwks_uri: https://c.example/keys",
            "shop.yaml:5:3: unknown field \"jwks_uri\"; did you mean \"jwks_url\"? The fields of an issuer are `url`, `platform`, `audiences`, `algorithms`, `leeway_seconds`, `max_lifetime_seconds`, `token_types`, `claims`, `discovery_url`, `jwks_url`, `keys_file`, `also_known_as`, `stale_after_seconds`, `unknown_key_jitter_seconds`, `fetch_timeout_seconds`, `max_document_bytes`, `max_keys`, `api_token_file`, `api_ca_file`, `insecure_loopback_http`, `dangerous_accept_api_server_audience` and `token_review`",
        ),
        (
            "platform: google",
            "shop.yaml: issuer \"https://c.example\" is misconfigured: the platforms `in-cluster` and `google` determine the issuer; leave the field `url` out (line 3, column 3 of the file)",
        ),
    ] {
        assert_errors(&[(&issuer(fields), expected)]);
    }
}

#[test]
fn syntax_errors_are_reported_with_their_position() {
    assert_errors(&[
        (
            "allow:\n\t- allUsers\n",
            "shop.yaml:2:2: the line is indented with a tab; use spaces",
        ),
        (
            "allow:\n  - allUsers\n - allAuthenticatedUsers\n",
            "shop.yaml:3:2: the line is not indented correctly; all fields of a mapping, and the `-` of all elements of a list, must begin in the same column",
        ),
        (
            "allow: []\n deny: [allUsers]\n",
            "shop.yaml:2:2: the line is not indented correctly; all fields of a mapping, and the `-` of all elements of a list, must begin in the same column",
        ),
        (
            "allow: [\"allUsers]\n",
            "shop.yaml:1:9: the quote is not closed",
        ),
        ("allow: 'allUsers", "shop.yaml:1:8: the quote is not closed"),
        (
            "allow: 'allUsers\n",
            "shop.yaml:2:1: the quote of an earlier line is not closed, or this line is not indented further than its field",
        ),
        (
            "allow: [\n",
            "shop.yaml:1:8: the bracket `[` is not closed; expected `]`",
        ),
        (
            "{ \"allow\": [\"allUsers\"]\n",
            "shop.yaml:1:1: the bracket `{` is not closed; expected `}`",
        ),
        (
            "{ \"allow\": [\"allUsers\"} }\n",
            "shop.yaml:1:12: the bracket `[` is closed by `}`; expected `]`",
        ),
        (
            "{ \"allow\": [] \"deny\": [] }\n",
            "shop.yaml:1:15: expected `,` or `}` before this",
        ),
        (
            "{ \"allow\" [] }\n",
            "shop.yaml:1:11: found something after a closing quote, where `,`, `:`, a closing bracket or the end of the line is expected",
        ),
        (
            "allow: []]\n",
            "shop.yaml:1:10: a bracket is closed that was not opened",
        ),
        (
            "allow: @all\n",
            "shop.yaml:1:8: text cannot begin with \"@\" unless it is in quotes",
        ),
        (
            "allow: a: b\n",
            "shop.yaml:1:9: a `:` is not expected here; begin the field in a new line, put text that contains `: ` in quotes, and close the brackets and quotes above",
        ),
        (
            "allow: [\"\\q\"]\n",
            "shop.yaml:1:9: the text in double quotes has an unknown escape; write a backslash as `\\\\`, or use single quotes",
        ),
        (
            "allow: []\n---\ndeny: [allUsers]\n",
            "shop.yaml:3:1: a second document begins here; the file must be a single document, so remove the line `---` or `...` above and put all fields into one",
        ),
        (
            "allow: *members\n",
            "shop.yaml:1:8: the alias (`*`) refers to an anchor (`&`) that is not defined above it; if it is meant as text, put it in quotes",
        ),
        (
            "allow: {{ .Values.members }}\n",
            "shop.yaml:1:9: the name of a field must be text, found a list or a mapping; a placeholder of a template, such as `{{ … }}`, has to be filled in before",
        ),
        (
            "allow: .inf\n",
            "shop.yaml:1:8: \".inf\" is not a finite number; if it is meant as text, put it in quotes",
        ),
        ("~: a\n", "shop.yaml:1:1: a field has no name"),
    ]);
}

#[test]
fn files_that_are_not_text_or_too_complex_are_reported() {
    assert_eq!(
        check_error(b"allow:\n  - \xff\xfe\n"),
        "shop.yaml:2:5: the file is not UTF-8 text; save it as UTF-8"
    );
    let deep = format!("allow: {}{}\n", "[".repeat(100), "]".repeat(100));
    let text = check_error(deep.as_bytes());
    assert!(
        text.ends_with(
            ": lists and mappings are nested too deeply here; at most 32 levels are allowed"
        ),
        "{text}"
    );
    let mut bomb = "allow: &a0 [allUsers]\nclaims:\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("  c{level}: &a{level} [{aliases}]\n"));
    }
    let text = check_error(bomb.as_bytes());
    assert!(
        text.ends_with(": the file has too many aliases (`*`); write the values out"),
        "{text}"
    );
    let many = format!("allow: [{}]\n", "a, ".repeat(300_000));
    let text = check_error(many.as_bytes());
    assert!(
        text.ends_with(": the file has too many values; at most 250,000 are allowed"),
        "{text}"
    );
    let directory = tempfile::tempdir().unwrap();
    let error = PolicyFile::check(directory.path()).unwrap_err();
    assert!(matches!(error, PolicyFileError::Read(_)));
    assert!(error.to_string().contains("found a directory"), "{error}");
}

#[test]
fn no_error_contains_terms_of_the_implementation() {
    let values = [
        "1",
        "true",
        "~",
        "[]",
        "[1]",
        "{}",
        "{ a: 1 }",
        "text",
        "[[a]]",
        "[{}]",
        "1e999",
        "!!binary a",
        "!x a",
    ];
    let fields = [
        "allow",
        "deny",
        "audiences",
        "scopes",
        "claims",
        "claims: { x",
        "claims: { x: { equals",
        "claims: { x: { one_of",
        "claims: { x: { prefix",
        "claims: { x: { glob",
        "claims: { x: { contains",
        "claims: { x: { all_of",
        "claims: { /a/~b: { prefx",
        "issuers",
        "unknown",
        "issuers: [{ url",
        "issuers: [{ platform",
        "issuers: [{ audiences",
        "issuers: [{ claims",
        "issuers: [{ leeway_seconds",
        "allow: [{ issuer",
        "allow: [{ members",
        "deny: [{ issuer",
    ];
    let mut checked = 0;
    for field in fields {
        for value in values {
            let closing = match field.matches('{').count() {
                0 => "",
                1 if field.contains('[') => " }]",
                1 => " }",
                _ => " } }",
            };
            for content in [
                format!("{field}: {value}{closing}\n"),
                format!("allow: []\n{field}: {value}{closing}\n"),
                format!("{field}: {value}"),
                format!("{field}:\n{value}{closing}"),
            ] {
                let text = check_error(content.as_bytes());
                for term in [
                    "serde",
                    "sequence",
                    "untagged",
                    "struct",
                    "enum",
                    "invalid type",
                    "variant",
                    "Option",
                    "u64",
                    "scalar",
                    "deserialize",
                    "expected a map",
                    "at line",
                    "EOF",
                    "not valid YAML",
                ] {
                    assert!(!text.contains(term), "{content:?}: {text}");
                }
                checked += 1;
            }
        }
    }
    assert_eq!(checked, fields.len() * values.len() * 4);
}

#[test]
fn parts_that_do_not_fit_a_guard_are_reported_with_their_position() {
    let guard = OidcGuard::builder()
        .issuer(Issuer::kubernetes("https://c.example").audience("orders"))
        .any_verified_caller()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop.yaml");
    for (content, position, expected) in [
        (
            "allow:\n- system:serviceaccounts\n- user:jane@example.com\n",
            (3, 3),
            PolicyError::NoIssuerForPlatform { platform: "Google" },
        ),
        (
            "allow: []\ndeny:\n- issuer: https://c.example/\n  members: [allAuthenticatedUsers]\n",
            (3, 11),
            PolicyError::UntrustedIssuer {
                issuer: "https://c.example/".to_owned(),
                suggestion: Some("https://c.example".to_owned()),
            },
        ),
        (
            "allow: [\"principal:https://other.example#a\"]\n",
            (1, 9),
            PolicyError::UntrustedIssuer {
                issuer: "https://other.example".to_owned(),
                suggestion: None,
            },
        ),
        (
            "allow:\n- issuer: https://c.example\n  members:\n  - user:jane@example.com\n",
            (4, 5),
            PolicyError::PlatformMismatch {
                issuer: "https://c.example".to_owned(),
                platform: "Google",
            },
        ),
        (
            "allow: []\naudiences:\n- orders\n- payments\n",
            (4, 3),
            PolicyError::UnknownAudience {
                audience: "payments".to_owned(),
            },
        ),
    ] {
        std::fs::write(&path, content).unwrap();
        assert!(PolicyFile::check(&path).is_ok(), "{content}");
        match guard.check_policy_file(&path) {
            Err(PolicyFileError::Policy {
                line,
                column,
                error,
                ..
            }) => {
                assert_eq!(((line, column), *error), (position, expected), "{content}");
            }
            other => panic!("{content}: {other:?}"),
        }
    }
}

#[test]
fn a_valid_file_is_summarized() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop.yaml");
    std::fs::write(
        &path,
        "allow:\n- allUsers\n- issuer: https://c.example\n  members: [\"system:serviceaccounts:shop\"]\n- allUsers\ndeny: [\"system:serviceaccount:shop:legacy\"]\nclaims: { hd: example.com, n: 1 }\n",
    )
    .unwrap();
    let summary = PolicyFile::check(&path).unwrap();
    assert_eq!(
        summary.to_string(),
        format!(
            "{}: the policy is valid\n\
             allow: 2 members\n  allUsers\n  system:serviceaccounts:shop of https://c.example\n\
             deny: 1 member\n  system:serviceaccount:shop:legacy\n\
             audiences: any that the issuer accepts\n\
             claims: 2 claims\n  hd: \"example.com\"\n  n: 1\n\
             warning: the policy allows allUsers and has a deny list: requests without a token are rejected, because a denied caller could leave its token out",
            path.display()
        )
    );
    assert_eq!(summary.allowed().len(), 2);
    assert_eq!(summary.claims(), ["hd: \"example.com\"", "n: 1"]);
    let google = OidcGuard::builder()
        .issuer(Issuer::google().audience("a"))
        .any_verified_caller()
        .build()
        .unwrap();
    std::fs::write(&path, "allow: [allAuthenticatedUsers]\n").unwrap();
    assert_eq!(PolicyFile::check(&path).unwrap().warnings(), &[""; 0]);
    let summary = google.check_policy_file(&path).unwrap();
    assert_eq!(
        summary.warnings(),
        [
            "the policy allows allAuthenticatedUsers, and Google is a trusted issuer: anyone on the internet can get such a token"
        ]
    );
}

#[test]
fn the_issuers_of_a_file_are_checked_with_its_policy() {
    assert_errors(&[
        (
            "issuers: [{ platform: google, audiences: [a] }]\nallow:\n- system:serviceaccounts\n",
            "shop.yaml:3:3: the policy has members of Kubernetes, and no trusted issuer is of that platform; add such an issuer to the guard, or remove the members",
        ),
        (
            "issuers: [{ platform: google, audiences: [a] }, { platform: google, audiences: [b] }]\nallow: []\n",
            "shop.yaml: issuer \"https://accounts.google.com\" is configured twice; configure it once, with all its audiences",
        ),
        (
            "issuers: [{ platform: in-cluster, audiences: [a] }]\nallow: [allUsers]\n",
            "shop.yaml: the policy is valid\nallow: 1 member\n  allUsers\ndeny: no caller\naudiences: any that the issuer accepts\nclaims: none required\nwarning: the issuers in the file were not checked, because `platform: in-cluster` requires that this process runs in a cluster",
        ),
    ]);
}
