// Standin is the program in images of others that docker compose's tests run, by
// the name that it is called with.
package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh/agent"
)

func main() {
	if err := run(filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string, args []string) error {
	switch name {
	case "hello":
		fmt.Println("Hello from Docker!")
		return nil
	case "dispatcher": // a page of words that it asks for
		return untilSignal(func() error {
			http.HandleFunc("/words/", func(w http.ResponseWriter, r *http.Request) {
				forward(w, "http://words:8080"+strings.TrimPrefix(r.URL.Path, "/words"))
			})
			http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html><body>sentences</body></html>") })
			return http.ListenAndServe(":80", nil)
		})
	case "java": // serves the words
		return untilSignal(func() error {
			return http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"word":"whale"}`) }))
		})
	case "postgres", "mariadbd":
		return untilSignal(func() error { select {} })
	case "fluent-bit":
		return untilSignal(func() error { return swallow(":24224") })
	case "curl":
		return fetch(args[len(args)-1])
	case "printenv": // Debian's BusyBox lacks it
		return printVariables(args)
	case "ssh-add":
		return listKeys()
	}
	return fmt.Errorf("there is no stand-in for %q", name)
}

// untilSignal serves until it is asked to end: process 1 has to say that it will.
func untilSignal(serve func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-ended:
		return err
	case <-asked:
		return nil
	}
}

func forward(w http.ResponseWriter, url string) {
	answer, err := http.Get(url)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.WriteHeader(answer.StatusCode)
	io.Copy(w, answer.Body)
}

func swallow(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go io.Copy(io.Discard, c)
	}
}

func fetch(url string) error {
	answer, err := http.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the answer is %s", answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func printVariables(names []string) error {
	for _, name := range names {
		value, ok := os.LookupEnv(name)
		if !ok {
			os.Exit(1)
		}
		fmt.Println(value)
	}
	if len(names) == 0 {
		fmt.Println(strings.Join(os.Environ(), "\n"))
	}
	return nil
}

// listKeys prints the keys of the agent as authorized_keys(5) has them.
func listKeys() error {
	c, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	if err != nil {
		return err
	}
	keys, err := agent.NewClient(c).List()
	for _, k := range keys {
		fmt.Println(k.Format, base64.StdEncoding.EncodeToString(k.Blob), k.Comment)
	}
	return err
}
