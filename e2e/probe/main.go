// Command probe is what runs inside the containers of the end-to-end tests: it
// serves, asks, counts, and misbehaves on demand.
package main

import (
	"fmt"
	"os"
	"strconv"
)

// verbs by name; each gets the remaining arguments.
func verbs() map[string]func([]string) error {
	return map[string]func([]string) error{
		"serve":   serve,   // serve PORT...: a web server, see serve.go
		"reply":   reply,   // reply PORT TEXT [TEXT]: a server that says TEXT, the second without end
		"get":     get,     // get URL: print the body
		"dial":    dial,    // dial NETWORK ADDR: print open, refused, timeout or unreachable
		"echo":    echo,    // echo PORT: UDP datagrams go back with the sender's address
		"names":   names,   // names ADDRESS NAME IP: a name server that knows one name
		"lookup":  lookup,  // lookup NAME [TYPE [tcp]]: ask the resolver, print JSON
		"numbers": numbers, // numbers [COUNT [PAUSE]]: numbered lines, see process.go
		"on-term": onTerm,  // on-term CODE: wait for SIGTERM, exit with CODE
		"deaf":    deaf,    // deaf: catch SIGTERM and go on
		"eat":     eat,     // eat MIB: use memory, then wait
		"spin":    spin,    // spin: use a CPU
		"fork":    fork,    // fork COUNT: start processes until that many run or none more can
		"blob":    blob,    // blob BYTES: one line of that length
		"tty":     tty,     // tty: print window sizes as they change
		"listen":  listen,  // listen NETWORK ADDR: take an address and keep it
		"grant":   grant,   // grant FILE: whoever runs it may bind to low ports
		"payload": payload, // payload [-name N] [-code N] …: a service that leaves facts, see payload.go
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: probe VERB [ARGUMENT...]")
		os.Exit(2)
	}
	run, ok := verbs()[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "probe: no verb %q\n", os.Args[1])
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// number returns argument i as a number, or def.
func number(args []string, i, def int) (int, error) {
	if len(args) <= i {
		return def, nil
	}
	return strconv.Atoi(args[i])
}
