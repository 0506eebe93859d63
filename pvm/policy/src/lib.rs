//! A customer's routing policy, applied to a route: a function.
