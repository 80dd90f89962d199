//! Typed views of tokens whose claims are texts.

/// Defines a view of claims that are texts, with a method for each. A claim that is missing, empty or no text is absent.
macro_rules! text_claims {
    (
        $(#[$doc:meta])*
        pub struct $view:ident {
            $( $(#[$claim_doc:meta])* $method:ident: $claim:literal, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $view {
            $( $method: Option<Box<str>>, )*
        }

        impl $view {
            /// Reads the claims of a verified payload.
            pub(super) fn from_payload(payload: &[u8]) -> Self {
                let mut view = Self::default();
                // Verification has parsed the payload as an object, so this does not fail.
                let _ = $crate::jose::claims::for_each_text(payload, |name, text| match name {
                    $( $claim => view.$method = Some(text.into()), )*
                    _ => {}
                });
                view
            }

            $(
                $(#[$claim_doc])*
                pub fn $method(&self) -> Option<&str> {
                    self.$method.as_deref()
                }
            )*
        }
    };
}

pub(super) use text_claims;
