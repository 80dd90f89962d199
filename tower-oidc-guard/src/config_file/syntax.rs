//! Describes syntax errors of YAML and JSON.

use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::localizer::ExternalMessageSource;

use super::document::MAX_DEPTH;
use super::error::{ContentError, Position};
use crate::text::Escaped;

/// Returns an error of the parser in the terms of this crate. `source` is the text that was parsed.
pub(super) fn content_error(error: &Error, source: &str) -> ContentError {
    let error = error.without_snippet();
    let position = match error.location() {
        Some(location) => Position::from(&location),
        None => Position::at_end_of(source),
    };
    ContentError::new(position, reason(error))
}

fn reason(error: &Error) -> String {
    match error {
        Error::ExternalMessage { source, .. } => match &**source {
            ExternalMessageSource::Parser(error) => syntax_fault(error.kind()),
            _ => INVALID.to_owned(),
        },
        Error::DuplicateMappingKey { key, .. } => match key {
            Some(key) => format!(
                "the field {} occurs more than once; keep one of them",
                Escaped(key)
            ),
            None => "a field occurs more than once; keep one of them".to_owned(),
        },
        Error::MultipleDocuments { .. } => {
            "a second document begins here; the file must be a single document, so remove the line `---` or `...` above and put all fields into one"
                .to_owned()
        }
        Error::Eof { .. } => "the file ends before its content is complete".to_owned(),
        Error::UnknownAnchor { .. } => {
            "the alias (`*`) refers to an anchor (`&`) that is not defined above it; if it is meant as text, put it in quotes"
                .to_owned()
        }
        Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            "the value of `<<` must be a mapping with fields, or a list of those".to_owned()
        }
        Error::NullIntoString { .. } => "a field has no name".to_owned(),
        Error::Unexpected { .. } => {
            "the name of a field must be text, found a list or a mapping; a placeholder of a template, such as `{{ … }}`, has to be filled in before"
                .to_owned()
        }
        Error::NonFiniteFloat { value, .. } => format!(
            "{} is not a finite number; if it is meant as text, put it in quotes",
            Escaped(value)
        ),
        Error::Budget { breach, .. } => exceeded_limit(breach),
        // An error within a value that an alias stands for. Faults of the value itself are found where it is defined, so only
        // the limits remain.
        Error::AliasError { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => TOO_MANY_ALIASES.to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias (`*`) refers to a value that contains it".to_owned()
        }
        Error::InvalidBinaryBase64 { .. }
        | Error::BinaryNotUtf8 { .. }
        | Error::TaggedScalarCannotDeserializeIntoString { .. }
        | Error::TaggedEnumMismatch { .. }
        | Error::InvalidScalar { .. } => {
            "the value does not fit its tag (`!`); remove the tag".to_owned()
        }
        _ => INVALID.to_owned(),
    }
}

const INVALID: &str = "the file is not valid YAML or JSON here";
const TOO_MANY_ALIASES: &str = "the file has too many aliases (`*`); write the values out";

fn exceeded_limit(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Aliases { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::AliasAnchorRatio { .. }
        | BudgetBreach::MergeKeys { .. } => TOO_MANY_ALIASES.to_owned(),
        BudgetBreach::Depth { .. } => nested_too_deeply(),
        BudgetBreach::Documents { .. } => "the file must be a single document".to_owned(),
        _ => "the file has too many values; at most 250,000 are allowed".to_owned(),
    }
}

/// Returns what is wrong with the syntax, and what to do.
pub(super) fn syntax_fault(kind: &ErrorKind) -> String {
    let text = match kind {
        ErrorKind::UnclosedFlowCollection { open } => {
            return format!(
                "the bracket `{open}` is not closed; expected `{}`",
                closing(*open)
            );
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            return format!(
                "the bracket `{open}` is closed by `{close}`; expected `{}`",
                closing(*open)
            );
        }
        ErrorKind::UnexpectedCharacter { character } => {
            return format!(
                "text cannot begin with {} unless it is in quotes",
                Escaped(&character.to_string())
            );
        }
        ErrorKind::UnexpectedEofFlowSequence => "the list is not closed; expected `]`",
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            "the mapping is not closed; expected `}`"
        }
        ErrorKind::UnexpectedEofBlockSequence
        | ErrorKind::UnexpectedEofBlockMapping
        | ErrorKind::UnexpectedEof => "the file ends before its content is complete",
        ErrorKind::MisplacedFlowCollectionEnd => "a bracket is closed that was not opened",
        ErrorKind::ExpectedFlowMappingSeparator => "expected `,` or `}` before this",
        ErrorKind::ExpectedFlowSequenceSeparator => "expected `,` or `]` before this",
        ErrorKind::UnclosedQuotedScalar => "the quote is not closed",
        ErrorKind::InvalidQuotedScalarIndent | ErrorKind::DocumentIndicatorInQuotedScalar => {
            "the quote of an earlier line is not closed, or this line is not indented further than its field"
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar
        | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            "found something after a closing quote, where `,`, `:`, a closing bracket or the end of the line is expected"
        }
        ErrorKind::UnknownQuotedScalarEscape
        | ErrorKind::InvalidQuotedScalarHexEscape
        | ErrorKind::InvalidLowSurrogateHexEscape
        | ErrorKind::InvalidLowSurrogate
        | ErrorKind::MissingLowSurrogate
        | ErrorKind::UnpairedLowSurrogate
        | ErrorKind::InvalidUnicodeEscape => {
            "the text in double quotes has an unknown escape; write a backslash as `\\\\`, or use single quotes"
        }
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar
        | ErrorKind::InvalidBlockEntryWhitespace
        | ErrorKind::InvalidMappingValueWhitespace => "the line is indented with a tab; use spaces",
        ErrorKind::MappingValueNotAllowed
        | ErrorKind::InvalidColonPlacement
        | ErrorKind::FlowMappingValueAdjacentCollection => {
            "a `:` is not expected here; begin the field in a new line, put text that contains `: ` in quotes, and close the brackets and quotes above"
        }
        ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::InvalidFlowScalarIndent
        | ErrorKind::InvalidBlockScalarIndent
        | ErrorKind::MappingKeyNotAllowed
        | ErrorKind::BlockSequenceEntryNotAllowed => {
            "the line is not indented correctly; all fields of a mapping, and the `-` of all elements of a list, must begin in the same column"
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            "expected a field: a name, a `:` and a space"
        }
        ErrorKind::BlockEntryInFlowCollection
        | ErrorKind::PlainScalarStartsWithDashFlowIndicator => {
            "a list in brackets has no `-`; separate its elements by `,`"
        }
        ErrorKind::ExpectedNodeContent | ErrorKind::UnexpectedEndOfPlainScalar => {
            "expected a value here"
        }
        ErrorKind::CommentNotSeparated => {
            "a comment must follow a space; put text that contains `#` in quotes"
        }
        ErrorKind::CommentInterceptedScalar => {
            "text that continues in the next line cannot have a comment in between"
        }
        ErrorKind::RecursionLimitExceeded => return nested_too_deeply(),
        ErrorKind::UnknownAnchor
        | ErrorKind::MissingAnchorOrAliasName
        | ErrorKind::AnchorCountOverflow => {
            "the anchor (`&`) or alias (`*`) is not valid; if it is meant as text, put it in quotes"
        }
        ErrorKind::ZeroBlockScalarIndent | ErrorKind::InvalidBlockScalarHeader => {
            "the line with `|` or `>` must end after it; write the text in quotes instead"
        }
        ErrorKind::ExpectedTagBang
        | ErrorKind::InvalidGlobalTagCharacter
        | ErrorKind::UndeclaredTagHandle
        | ErrorKind::InvalidTagTerminator
        | ErrorKind::MissingTagUri
        | ErrorKind::UnclosedVerbatimTag
        | ErrorKind::InvalidTagEscape => {
            "the tag (`!`) is not valid; if it is meant as text, put it in quotes"
        }
        ErrorKind::UnsupportedYamlMajorVersion
        | ErrorKind::DuplicateVersionDirective
        | ErrorKind::ExpectedDocumentStart
        | ErrorKind::MissingDocumentEndBeforeDirective
        | ErrorKind::InvalidDirectiveTerminator
        | ErrorKind::InvalidDirectiveName
        | ErrorKind::MissingDirectiveName
        | ErrorKind::MissingYamlVersion
        | ErrorKind::MissingYamlVersionSeparator => {
            "the directive (`%`) is not valid; remove the line"
        }
        ErrorKind::InvalidDocumentEnd | ErrorKind::MultipleDocumentsUnsupported => {
            "the file must be a single document"
        }
        _ => INVALID,
    };
    text.to_owned()
}

fn nested_too_deeply() -> String {
    format!("lists and mappings are nested too deeply here; at most {MAX_DEPTH} levels are allowed")
}

fn closing(open: char) -> char {
    if open == '{' { '}' } else { ']' }
}
