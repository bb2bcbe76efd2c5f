//! Macro for enumerations that are numbers on the wire.

/// Defines an enumeration whose variants are the kernel's numbers, with both directions.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $code:expr),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            pub(crate) fn code(self) -> u32 {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            pub(crate) fn of_code(code: u32) -> Option<Self> {
                match code {
                    $(code if code == $code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

pub(super) use coded;
