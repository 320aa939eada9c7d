//! A journal seen from outside: what it promises, on disks that fail in every way they may.

mod basics;
mod crash;
mod damage;
mod faults;
mod harness;
mod lives;
mod model;
mod recorder;
mod threads;
