//! How much may leave by a link: token bucket filters (tc-tbf(8), net/sched/sch_tbf.c).

use model::names::LinkName;
use netlink_packet_core::{DefaultNla, Nla, NlasIterator};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};

use super::{state::Shape, wire::Names};

/// The handle of filters of ours: `ne` in ASCII.
const HANDLE: u32 = 0x6e65_0000;
const KIND: &str = "tbf";
/// `TCA_TBF_PARMS` and `TCA_TBF_RATE64` of linux/pkt_sched.h.
const PARMS: u16 = 1;
const RATE64: u16 = 4;
/// `TC_LINKLAYER_ETHERNET`: without it the kernel wants a table of times.
const ETHERNET: u8 = 1;

/// Makes or replaces the filter of a link.
pub fn set(index: u32, shape: Shape) -> Message {
    // Two `tc_ratespec`s, of which the second, the peak, is none; then limit, bucket and, for the
    // peak, MTU.
    let mut parms = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
    parms.extend(u32::try_from(shape.rate).unwrap_or(u32::MAX).to_ne_bytes());
    parms.extend([0; 12]);
    parms.extend(
        [shape.limit, shape.ticks, 0]
            .into_iter()
            .flat_map(u32::to_ne_bytes),
    );
    let options = [(PARMS, parms), (RATE64, shape.rate.to_ne_bytes().to_vec())];
    let options = options.map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)));
    let mut message = of_link(index);
    message.attributes = vec![
        TcAttribute::Kind(KIND.to_owned()),
        TcAttribute::Options(options.to_vec()),
    ];
    Message::NewQueueDiscipline(message)
}

/// Removes the filter of a link.
pub fn delete(index: u32) -> Message {
    Message::DelQueueDiscipline(of_link(index))
}

/// Asks for what leaves by which link how.
pub fn get() -> Message {
    Message::GetQueueDiscipline(TcMessage::default())
}

/// A filter of ours, and the link that it is on.
pub fn read(message: &Message, names: &Names) -> Option<(LinkName, Shape)> {
    let Message::NewQueueDiscipline(message) = message else {
        return None;
    };
    let ours = message.header.handle == TcHandle::from(HANDLE);
    let link = names
        .get(&u32::try_from(message.header.index).ok()?)
        .filter(|_| ours)?;
    // The library keeps the options of a kind that it does not know as one piece.
    let options = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => match options.first()? {
                TcOption::Other(whole) => Some(whole),
                _ => None,
            },
            _ => None,
        })?;
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let value = |wanted: u16| {
        let mut nested = NlasIterator::new(&bytes).filter_map(Result::ok);
        nested
            .find(|option| option.kind() == wanted)
            .map(|option| option.value().to_vec())
    };
    let parms = value(PARMS)?;
    let word = |at: usize| Some(u32::from_ne_bytes(parms.get(at..at + 4)?.try_into().ok()?));
    // Told where 32 bits are too few.
    let whole = value(RATE64).and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
    let rate = whole.or(word(8).map(u64::from))?;
    Some((
        link.clone(),
        Shape {
            rate,
            limit: word(24)?,
            ticks: word(28)?,
        },
    ))
}

fn of_link(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle::from(HANDLE);
    message
}
