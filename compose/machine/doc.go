// Package machine is the life of one container as a pure function:
//
//	Record × Event → Record, []Effect
//
// It has no clock (an event carries its time) and does no I/O (an effect is a
// sentence about what must be done). Package supervise gives each container one
// goroutine, which alone holds its record: it feeds events in, in the order in
// which they came, and performs the effects. What a supervisor that is killed must
// not forget (a stop that was asked for, a pending restart and its delay, a
// removal) is in the record and is saved before anything is done about it, so the
// next supervisor goes on where the last one was: see [Adopted].
//
//	          StartAsked              Started
//	Created ──────────────► Starting ─────────► Running ◄──────► Paused
//	   ▲                     ▲ │ ▲                │ │
//	   │         StartFailed │ │ │ BackoffElapsed │ │ StopAsked
//	   └─────────────────────┼─┘ └─── Restarting ◄┘ ▼        Exited
//	                         └───────── Exited ◄── Stopping ─────────┐
//	                                      │ RemoveAsked              │
//	                                      └────────► Removing ──► Gone
//
// An event that cannot happen in a phase is an internal error: it is told, and
// changes nothing.
package machine
