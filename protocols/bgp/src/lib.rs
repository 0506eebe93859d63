//! Sans-IO BGP engine: session FSM, decision process, RIBs
