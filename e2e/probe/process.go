package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// numbers writes "1", "2", … as fast as the reader takes them, or with PAUSE
// microseconds after each hundred, until COUNT (0: no end) or SIGTERM; then
// "end N" with the last number. With a count it then waits for SIGTERM.
func numbers(args []string) error {
	count, err := number(args, 0, 0)
	if err != nil {
		return err
	}
	pause, err := number(args, 1, 0)
	if err != nil {
		return err
	}
	term := make(chan os.Signal, 2)
	signal.Notify(term, syscall.SIGTERM)
	w := bufio.NewWriterSize(os.Stdout, 4096)
	n := 0
loop:
	for count == 0 || n < count {
		select {
		case <-term:
			break loop
		default:
		}
		n++
		w.WriteString(strconv.Itoa(n))
		w.WriteByte('\n')
		if pause > 0 && n%100 == 0 {
			w.Flush()
			time.Sleep(time.Duration(pause) * time.Microsecond)
		}
	}
	fmt.Fprintf(w, "end %d\n", n)
	if err := w.Flush(); err != nil {
		return err
	}
	if count > 0 {
		<-term
	}
	return nil
}

func onTerm(args []string) error {
	code, err := number(args, 0, 0)
	if err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM) // before anybody reads that it is ready
	fmt.Println("ready")
	<-term
	fmt.Println("terminated")
	os.Exit(code)
	return nil
}

func deaf([]string) error {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	fmt.Println("ready")
	select {}
}

func eat(args []string) error {
	mib, err := number(args, 0, 1)
	if err != nil {
		return err
	}
	var kept [][]byte
	for range mib {
		kept = append(kept, bytes.Repeat([]byte{1}, 1<<20))
	}
	fmt.Println("ate", len(kept), "MiB")
	wait()
	runtime.KeepAlive(kept)
	return nil
}

func spin([]string) error {
	for n := 0; ; n++ {
		runtime.KeepAlive(n)
	}
}

// fork starts sleeping processes and prints how many it could start.
func fork(args []string) error {
	want, err := number(args, 0, 1)
	if err != nil {
		return err
	}
	made := 0
	for made < want {
		cmd := exec.Command("/proc/self/exe", "on-term", "0")
		if err := cmd.Start(); err != nil {
			fmt.Println("stopped:", err)
			break
		}
		made++
	}
	fmt.Println("made", made)
	wait()
	return nil
}

// wait blocks until SIGTERM.
func wait() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
}

func blob(args []string) error {
	n, err := number(args, 0, 0)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(os.Stdout)
	for i := range n {
		w.WriteByte("0123456789abcdef"[i%16])
	}
	w.WriteByte('\n')
	return w.Flush()
}

// tty prints "not a terminal", or the window's size now and whenever it changes.
func tty([]string) error {
	winch := make(chan os.Signal, 8)
	signal.Notify(winch, syscall.SIGWINCH)
	stop := time.After(30 * time.Second)
	for {
		ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println("not a terminal")
			return nil
		}
		fmt.Printf("size %dx%d\n", ws.Col, ws.Row)
		select {
		case <-winch:
		case <-stop:
			return nil
		}
	}
}

// grant gives a file the capability CAP_NET_BIND_SERVICE, as setcap(8) does.
func grant(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: grant FILE")
	}
	// struct vfs_cap_data, linux/capability.h: revision 2, effective; bit 10.
	data := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return unix.Setxattr(args[0], "security.capability", data, 0)
}
