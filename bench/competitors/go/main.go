// A pool of goroutines over net/smtp, each with a persistent client of its own.
//
// Called as NAME HOST PORT CONNECTIONS MESSAGES SIZE; prints one line of JSON. What is fair: the
// content is made once and handed over as bytes; every connection is open, greeted and has carried
// one message before the clock starts; QUIT is not timed. net/smtp never pipelines.
package main

import (
	"encoding/json"
	"fmt"
	"net/smtp"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	sender    = "bench@example.com"
	recipient = "someone@example.net"
)

type result struct {
	Name     string  `json:"name"`
	Messages int64   `json:"messages"`
	Seconds  float64 `json:"seconds"`
	Ok       int64   `json:"ok"`
	Failed   int64   `json:"failed"`
}

func main() {
	if len(os.Args) != 6 {
		fail("usage: HOST PORT CONNECTIONS MESSAGES SIZE")
	}
	address := os.Args[1] + ":" + os.Args[2]
	connections, messages, size := number(os.Args[3]), number(os.Args[4]), number(os.Args[5])
	content := makeContent(size)

	clients := make([]*smtp.Client, connections)
	for i := range clients {
		clients[i] = open(address, content)
	}

	left, sent := int64(messages), int64(0)
	var workers sync.WaitGroup
	start := time.Now()
	for _, client := range clients {
		workers.Add(1)
		go func(client *smtp.Client) {
			defer workers.Done()
			for atomic.AddInt64(&left, -1) >= 0 {
				if transact(client, content) != nil {
					return // a net/smtp client is not usable after an error
				}
				atomic.AddInt64(&sent, 1)
			}
		}(client)
	}
	workers.Wait()
	seconds := time.Since(start).Seconds()

	all := int64(messages)
	json.NewEncoder(os.Stdout).Encode(result{"Go net/smtp", all, seconds, sent, all - sent})
}

// open connects, greets and sends one message.
func open(address string, content []byte) *smtp.Client {
	client, err := smtp.Dial(address)
	if err == nil {
		err = client.Hello("bench.example.com")
	}
	if err == nil {
		err = transact(client, content)
	}
	if err != nil {
		fail(err.Error())
	}
	return client
}

// transact sends one message on an open connection.
func transact(client *smtp.Client, content []byte) error {
	if err := client.Mail(sender); err != nil {
		return err
	}
	if err := client.Rcpt(recipient); err != nil {
		return err
	}
	writer, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := writer.Write(content); err != nil {
		return err
	}
	return writer.Close()
}

// makeContent returns a header section and plain lines, size bytes in all, CRLF throughout.
func makeContent(size int) []byte {
	header := fmt.Sprintf("From: <%s>\r\nTo: <%s>\r\nSubject: bench\r\n\r\n", sender, recipient)
	line := strings.Repeat("x", 70) + "\r\n"
	content := header + strings.Repeat(line, size/len(line)+1)
	if len(content) > size-2 {
		content = content[:size-2]
	}
	return []byte(strings.TrimRight(content, "\r\n") + "\r\n")
}

func number(word string) int {
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 {
		fail("not a positive number: " + word)
	}
	return n
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(64)
}
