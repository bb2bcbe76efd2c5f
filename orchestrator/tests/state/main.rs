//! The rules of the replicated state, seen through the trait that `cluster` drives it by.

#![allow(clippy::unwrap_used)]

mod answer;
mod cluster;
mod container;
mod draining;
mod fixture;
mod keys;
mod lan;
mod membership;
mod names;
mod network;
mod published;
mod reach;
mod records;
mod sections;
mod service;
mod simulation;
mod task;
mod update;
mod view;
