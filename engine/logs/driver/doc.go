// Package driver is what becomes of a container's lines beyond its log here: it reads
// the options of Docker's logging drivers, and sends lines to journald, syslog, fluentd
// and GELF receivers.
//
// # Delivery
//
// The log is the queue. A [Delivery] reads it like any other reader, behind the pump, and
// keeps in a bookmark how far it has come. So a receiver that is slow, gone or comes late
// neither holds the container up nor costs the log a line; what waits is bounded by the
// log's own budget (cache-max-size, cache-max-file), and max-buffer-size where that is
// less. What is deleted before it could be sent is told once, with the times it is from.
//
// What holds when something is killed:
//
//   - Our own process: its successor goes on at the bookmark. That moves when a line is
//     written to the socket, whose content the kernel goes on sending. At most what one
//     system call was writing comes twice: one line of a datagram driver, 64 KiB of a
//     stream. With fluentd-request-ack it moves when a line is acknowledged, so those
//     come twice that were on their way, 1 MiB at most.
//   - The receiver: what it had not taken from the socket is sent again when it is back.
//     With TCP that is told by the kernel there, not by the program: what was in its
//     receive buffer when it died is lost. Over a unix socket nothing is lost but what
//     the program had read, and at most what that holds comes twice. UDP promises
//     nothing; where the port is closed and the host says so, lines wait.
//   - Both at once: what was in the socket is lost, too, but for fluentd-request-ack,
//     which loses nothing whoever dies.
//   - The machine's power: the bookmark may be some seconds behind.
//
// A container that is removed takes its log along; before, what waits is sent as long as
// the receiver takes it, and ten seconds at most.
package driver
