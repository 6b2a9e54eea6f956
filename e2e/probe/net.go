package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// serve answers on all ports: /addr with the client's address, /host with the
// host name, /env?NAME with a variable, /exit?CODE by exiting.
func serve(ports []string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/addr", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, host)
	})
	mux.HandleFunc("/host", func(w http.ResponseWriter, r *http.Request) {
		name, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, name)
	})
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getenv(r.URL.RawQuery)) })
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.URL.RawQuery)
		if err != nil {
			code = 1
		}
		os.Exit(code)
	})
	mux.HandleFunc("/healthy", func(w http.ResponseWriter, r *http.Request) {
		if os.Getenv("HEALTHY") == "no" {
			http.Error(w, "not healthy", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { // ?DURATION
		if d, err := time.ParseDuration(r.URL.RawQuery); err == nil {
			time.Sleep(d)
		}
		fmt.Fprint(w, "slow")
	})
	failed := make(chan error)
	for _, p := range ports {
		s := &http.Server{Addr: ":" + p, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		go func() { failed <- s.ListenAndServe() }()
	}
	return <-failed
}

// reply answers each connection with the first text and then, until it is closed, with
// the second over and over, or with silence.
func reply(args []string) error {
	var texts []string
	for _, a := range args[1:] {
		text, err := strconv.Unquote(`"` + a + `"`)
		if err != nil {
			return fmt.Errorf("%q: %w", a, err)
		}
		texts = append(texts, text)
	}
	l, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, err := io.WriteString(c, texts[0])
			for err == nil && len(texts) > 1 {
				_, err = io.WriteString(c, texts[1])
			}
			if err == nil {
				io.Copy(io.Discard, c)
			}
		}()
	}
}

func get(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// dial prints what becomes of a connection.
func dial(args []string) error {
	c, err := net.DialTimeout(args[0], args[1], 2*time.Second)
	var timeout net.Error
	switch {
	case err == nil:
		c.Close()
		fmt.Println("open")
	case errors.Is(err, syscall.ECONNREFUSED):
		fmt.Println("refused")
	case errors.As(err, &timeout) && timeout.Timeout():
		fmt.Println("timeout")
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		fmt.Println("unreachable")
	default:
		return err
	}
	return nil
}

func echo(args []string) error {
	c, err := net.ListenPacket("udp", ":"+args[0])
	if err != nil {
		return err
	}
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte(from.String()+" "+string(b[:n])), from); err != nil {
			return err
		}
	}
}

func listen(args []string) error {
	var err error
	if strings.HasPrefix(args[0], "udp") {
		_, err = net.ListenPacket(args[0], args[1])
	} else {
		_, err = net.Listen(args[0], args[1])
	}
	if err != nil {
		return err
	}
	wait()
	return nil
}

// answer is what lookup prints.
type answer struct {
	Rcode   string        `json:"rcode"`
	Answers []string      `json:"answers"` // addresses, names or texts
	TTL     uint32        `json:"ttl"`
	Took    time.Duration `json:"took"` // nanoseconds
}

// names serves one name on an address, such as 127.0.0.1:53.
func names(args []string) error {
	return dns.ListenAndServe(args[0], "udp", dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg)
		a.SetReply(q)
		switch {
		case q.Question[0].Name != dns.Fqdn(args[1]):
			a.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			if rr, err := dns.NewRR(args[1] + ". 60 IN A " + args[2]); err == nil {
				a.Answer = append(a.Answer, rr)
			}
		}
		_ = w.WriteMsg(a)
	}))
}

// lookup asks the name server of resolv.conf, without its search list.
func lookup(args []string) error {
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	kind := dns.TypeA
	if len(args) > 1 {
		kind = dns.StringToType[args[1]]
	}
	name := dns.Fqdn(args[0])
	if kind == dns.TypePTR {
		if name, err = dns.ReverseAddr(args[0]); err != nil {
			return err
		}
	}
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	c := &dns.Client{Timeout: 4 * time.Second}
	if len(args) > 2 {
		c.Net = args[2]
	}
	reply, took, err := c.Exchange(m, net.JoinHostPort(conf.Servers[0], conf.Port))
	if err != nil {
		return err
	}
	if reply.Truncated && c.Net == "" { // as every resolver does
		c.Net = "tcp"
		if reply, took, err = c.Exchange(m, net.JoinHostPort(conf.Servers[0], conf.Port)); err != nil {
			return err
		}
	}
	a := answer{Rcode: dns.RcodeToString[reply.Rcode], Answers: []string{}, Took: took}
	for _, rr := range reply.Answer {
		a.TTL = rr.Header().Ttl
		switch rr := rr.(type) {
		case *dns.A:
			a.Answers = append(a.Answers, rr.A.String())
		case *dns.AAAA:
			a.Answers = append(a.Answers, rr.AAAA.String())
		case *dns.PTR:
			a.Answers = append(a.Answers, rr.Ptr)
		case *dns.TXT:
			a.Answers = append(a.Answers, rr.Txt...)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}
