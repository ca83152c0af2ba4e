//! Contracts: what a service accepts, and who handles it.
//!
//! [`contract!`](crate::contract!) writes everything that follows from the list of messages, so that the list is
//! written once: the table, the description, the enum of requests for servers that await, and
//! [`Serve`], which exists for every `S` that has a [`Handler`] for each message. A service without
//! one of them does not compile.

use weft_types::{Refusal, TypeIndex};

use crate::{ContractDescription, DecodeError, Message, TypeTable, decode, encode};

/// The messages that a service accepts. Written by [`contract!`](crate::contract!).
pub trait Contract: 'static {
    /// What both sides call it; the rules are those of `ContractName`.
    const NAME: &'static str;
    /// Counts changes of the list of messages, from 1.
    const VERSION: u16;
    /// Any one of its requests, decoded.
    type Request: Send + 'static;

    /// What a client sends when it opens a channel.
    fn table() -> TypeTable;

    /// What a service tells to those who have no Rust types.
    fn description() -> ContractDescription;

    /// The request at this index (of [`Self::table`]) from its bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], also for an index that the contract does not have.
    fn decode(index: TypeIndex, body: &[u8]) -> Result<Self::Request, DecodeError>;
}

/// That contract `Self` has message `M`. Written by [`contract!`](crate::contract!).
#[diagnostic::on_unimplemented(
    message = "contract `{Self}` does not accept `{M}`",
    label = "not a message of this contract"
)]
pub trait Accepts<M: Message>: Contract {
    /// What answers it.
    type Reply: Message;
    /// Where it stands in [`Contract::table`].
    const INDEX: TypeIndex;
}

/// What a service does with message `M`. `Cx` is what the runtime tells about the caller and what
/// the handler may use of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{M}`",
    note = "each message of a contract needs a handler: impl Handler<{M}, _> for {Self}"
)]
pub trait Handler<M: Message, Cx: ?Sized> {
    /// What answers it: the contract says which type.
    type Reply: Message;

    /// Handles one message. Messages come one at a time.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] goes to the caller in place of the reply.
    fn handle(&mut self, message: M, cx: &mut Cx) -> Result<Self::Reply, Refusal>;
}

/// Bytes in, handler, bytes out. Written by [`contract!`](crate::contract!) for every `S` that has a [`Handler`] with
/// the right reply for each message of the contract.
pub trait Serve<S: ?Sized, Cx: ?Sized>: Contract {
    /// Decodes the request at `index` (of [`Contract::table`]), has `service` handle it, and
    /// appends the encoded reply to `reply`.
    ///
    /// # Errors
    ///
    /// The handler's refusal; `UnknownMessage` or `Malformed` for a request that cannot be read;
    /// `TooLarge` for a reply that cannot be sent (what the handler did is done). `reply` is then
    /// as it was.
    fn dispatch(
        service: &mut S,
        cx: &mut Cx,
        index: TypeIndex,
        body: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal>;
}

/// One arm of [`Serve::dispatch`].
#[doc(hidden)]
pub fn dispatch_one<M, S, Cx>(
    service: &mut S,
    cx: &mut Cx,
    body: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), Refusal>
where
    M: Message,
    S: Handler<M, Cx> + ?Sized,
    Cx: ?Sized,
{
    let answer = service.handle(decode::<M>(body)?, cx)?;
    encode(&answer, reply).map_err(Refusal::from)
}

/// The arm of [`Serve::dispatch`] for an index that the contract does not have.
#[doc(hidden)]
pub fn dispatch_unknown<C: Contract>(index: TypeIndex) -> Result<(), Refusal> {
    Err(unknown::<C>(index).into())
}

/// The arm of [`Contract::decode`] for an index that the contract does not have.
#[doc(hidden)]
pub fn decode_unknown<C: Contract>(index: TypeIndex) -> Result<C::Request, DecodeError> {
    Err(unknown::<C>(index))
}

fn unknown<C: Contract>(index: TypeIndex) -> DecodeError {
    DecodeError::UnknownIndex {
        contract: C::NAME,
        index,
    }
}

/// Writes a contract from the list of its messages.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use postcard_schema::Schema;
/// use weft_contract::{Accepts, Contract, Message, contract};
///
/// #[derive(Serialize, Deserialize, Schema, Message)]
/// pub struct Greet { pub name: String }
/// #[derive(Serialize, Deserialize, Schema, Message)]
/// pub struct Greeting { pub text: String }
///
/// contract! {
///     /// Says hello.
///     pub contract Hello("hello", 1) as HelloRequest { Greet => Greeting }
/// }
///
/// let index = <Hello as Accepts<Greet>>::INDEX;
/// let HelloRequest::Greet(greet) = Hello::decode(index, b"\x04weft").unwrap();
/// assert_eq!(greet.name, "weft");
/// ```
///
/// It gives the uninhabited marker `Hello` with [`Contract`], an [`Accepts`] for each message,
/// [`Serve`] for whoever handles all of them, and `enum HelloRequest` with a variant for each. The
/// order of the list is that of the indices; add at its end.
#[macro_export]
macro_rules! contract {
    (
        $(#[$meta:meta])*
        $vis:vis contract $contract:ident($name:literal, $version:literal) as $request:ident {
            $($(#[$message_meta:meta])* $message:ident => $reply:ident),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $vis enum $contract {}

        #[doc = concat!("Any one request of [`", stringify!($contract), "`], for servers that take requests as values.")]
        #[allow(dead_code, reason = "a service that dispatches never looks into its requests")]
        #[allow(clippy::large_enum_variant, reason = "requests are moved once, out of the decoder")]
        $vis enum $request {
            $(
                #[doc = concat!("[`", stringify!($message), "`], answered by [`", stringify!($reply), "`].")]
                $(#[$message_meta])*
                $message($message),
            )+
        }

        const _: () = {
            #[repr(u16)]
            enum Position { $($message),+ }

            const _: () = $crate::check::assert_contract::<$contract>(&[
                $((<$message as $crate::Message>::NAME, <$message as $crate::Message>::VERSION)),+
            ]);

            impl $crate::Contract for $contract {
                const NAME: &'static str = $name;
                const VERSION: u16 = $version;
                type Request = $request;

                fn table() -> $crate::TypeTable {
                    $crate::TypeTable::of::<Self>(vec![
                        $($crate::TypeEntry::of::<$message, $reply>()),+
                    ])
                }

                fn description() -> $crate::ContractDescription {
                    $crate::ContractDescription::of::<Self>(vec![
                        $($crate::MessageDescription::of::<$message, $reply>()),+
                    ])
                }

                fn decode(
                    index: $crate::generated::TypeIndex,
                    body: &[u8],
                ) -> ::core::result::Result<$request, $crate::DecodeError> {
                    match index {
                        $(<Self as $crate::Accepts<$message>>::INDEX => {
                            $crate::decode::<$message>(body).map($request::$message)
                        })+
                        unknown => $crate::generated::decode_unknown::<Self>(unknown),
                    }
                }
            }

            $(
                impl $crate::Accepts<$message> for $contract {
                    type Reply = $reply;
                    const INDEX: $crate::generated::TypeIndex =
                        $crate::generated::TypeIndex::new(Position::$message as u16);
                }
            )+

            impl<S, Cx> $crate::Serve<S, Cx> for $contract
            where
                S: ?::core::marker::Sized,
                Cx: ?::core::marker::Sized,
                $(S: $crate::Handler<$message, Cx, Reply = $reply>,)+
            {
                fn dispatch(
                    service: &mut S,
                    cx: &mut Cx,
                    index: $crate::generated::TypeIndex,
                    body: &[u8],
                    reply: &mut ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<(), $crate::generated::Refusal> {
                    match index {
                        $(<Self as $crate::Accepts<$message>>::INDEX => {
                            $crate::generated::dispatch_one::<$message, S, Cx>(service, cx, body, reply)
                        })+
                        unknown => $crate::generated::dispatch_unknown::<Self>(unknown),
                    }
                }
            }

            impl $request {
                /// The index of the request's type in the contract's own table.
                #[must_use]
                #[allow(dead_code, reason = "not every server asks")]
                $vis const fn index(&self) -> $crate::generated::TypeIndex {
                    match self {
                        $(Self::$message(_) => <$contract as $crate::Accepts<$message>>::INDEX,)+
                    }
                }

                /// The name of the request's type.
                #[must_use]
                #[allow(dead_code, reason = "not every server asks")]
                $vis const fn name(&self) -> &'static str {
                    match self {
                        $(Self::$message(_) => <$message as $crate::Message>::NAME,)+
                    }
                }
            }

            // Only the name: what is in a request may be secret or large.
            impl ::core::fmt::Debug for $request {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.write_str(self.name())
                }
            }
        };
    };
}

#[cfg(test)]
mod tests {
    use postcard_schema::Schema;
    use serde::{Deserialize, Serialize};
    use weft_types::RefusalCode;

    use super::*;
    use crate::negotiate;

    #[derive(Debug, PartialEq, Serialize, Deserialize, Schema, weft_contract_derive::Message)]
    #[message(crate = crate)]
    struct Add {
        amount: u32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, Schema, weft_contract_derive::Message)]
    #[message(crate = crate)]
    struct Repeat {
        times: u32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, Schema, weft_contract_derive::Message)]
    #[message(crate = crate)]
    struct Total {
        total: u64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, Schema, weft_contract_derive::Message)]
    #[message(crate = crate)]
    struct Text {
        text: String,
    }

    contract! {
        /// Adds up.
        contract Sum("test.sum", 2) as SumRequest { Add => Total, Repeat => Text }
    }

    #[derive(Default)]
    struct Adder {
        total: u64,
    }

    impl Handler<Add, u32> for Adder {
        type Reply = Total;

        fn handle(&mut self, message: Add, calls: &mut u32) -> Result<Total, Refusal> {
            *calls += 1;
            if message.amount == 0 {
                return Err(Refusal::new(RefusalCode::Rejected, "nothing to add"));
            }
            self.total += u64::from(message.amount);
            Ok(Total { total: self.total })
        }
    }

    impl Handler<Repeat, u32> for Adder {
        type Reply = Text;

        fn handle(&mut self, message: Repeat, _: &mut u32) -> Result<Text, Refusal> {
            Ok(Text {
                text: "x".repeat(message.times as usize),
            })
        }
    }

    fn call<M: Message>(adder: &mut Adder, calls: &mut u32, message: &M) -> Result<Vec<u8>, Refusal>
    where
        Sum: Accepts<M>,
    {
        let (mut body, mut reply) = (Vec::new(), Vec::new());
        encode(message, &mut body).unwrap();
        Sum::dispatch(adder, calls, <Sum as Accepts<M>>::INDEX, &body, &mut reply)?;
        Ok(reply)
    }

    #[test]
    fn each_message_reaches_its_handler_and_its_reply_comes_back() {
        let (mut adder, mut calls) = (Adder::default(), 0);
        call(&mut adder, &mut calls, &Add { amount: 40 }).unwrap();
        let reply = call(&mut adder, &mut calls, &Add { amount: 2 }).unwrap();
        assert_eq!(decode(&reply), Ok(Total { total: 42 }));
        let reply = call(&mut adder, &mut calls, &Repeat { times: 3 }).unwrap();
        assert_eq!(decode(&reply), Ok(Text { text: "xxx".into() }));
        assert_eq!(calls, 2);
    }

    #[test]
    fn what_cannot_be_handled_is_refused_with_the_right_code() {
        let (mut adder, mut calls) = (Adder::default(), 0);
        let code = |result: Result<Vec<u8>, Refusal>| result.unwrap_err().code;

        let rejected = call(&mut adder, &mut calls, &Add { amount: 0 });
        assert_eq!(code(rejected), RefusalCode::Rejected);

        let too_large = call(&mut adder, &mut calls, &Repeat { times: 200_000 });
        assert_eq!(code(too_large), RefusalCode::TooLarge);

        let mut reply = vec![1];
        let mut dispatch = |index, body: &[u8]| {
            Sum::dispatch(
                &mut adder,
                &mut calls,
                TypeIndex::new(index),
                body,
                &mut reply,
            )
            .unwrap_err()
            .code
        };
        assert_eq!(dispatch(2, &[]), RefusalCode::UnknownMessage);
        assert_eq!(dispatch(0, &[]), RefusalCode::Malformed);
        assert_eq!(dispatch(0, &[1, 1]), RefusalCode::Malformed);
        assert_eq!(reply, [1], "a failure leaves the reply buffer alone");
    }

    #[test]
    fn a_request_knows_its_index_and_name_and_keeps_its_contents_out_of_logs() {
        let request = Sum::decode(TypeIndex::new(1), &[7]).unwrap();
        assert!(matches!(&request, SumRequest::Repeat(repeat) if repeat.times == 7));
        assert_eq!(request.index(), <Sum as Accepts<Repeat>>::INDEX);
        assert_eq!(
            (request.name(), format!("{request:?}")),
            ("Repeat", "Repeat".into())
        );
        assert!(matches!(
            Sum::decode(TypeIndex::new(9), &[]),
            Err(DecodeError::UnknownIndex {
                contract: "test.sum",
                ..
            })
        ));
    }

    #[test]
    fn a_contract_agrees_with_itself_and_with_its_own_description() {
        let table = Sum::table();
        assert_eq!((table.contract.as_str(), table.version), ("test.sum", 2));
        assert!(negotiate(&table, &table).is_ok());
        assert_eq!(Sum::description().table(), table);
    }
}
