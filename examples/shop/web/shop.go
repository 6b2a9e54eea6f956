package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/stack-run/stack/examples/shop/queue"
	"github.com/stack-run/stack/examples/shop/store"
)

type shop struct {
	store    *store.Store
	queue    *queue.Queue
	greeting string
}

func (s *shop) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /items", s.items)
	mux.HandleFunc("POST /orders", s.order)
	mux.HandleFunc("GET /orders/{id}", s.status)
	mux.HandleFunc("GET /healthz", s.health)
	return mux
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"euro": func(cents int) string { return fmt.Sprintf("%d.%02d €", cents/100, cents%100) },
}).Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>The shop</title>
<h1>{{.Greeting}}</h1>
<table>
{{- range .Items}}
<tr><td>{{.Name}}</td><td>{{euro .Cents}}</td><td>{{.Stock}} left</td>
<td><form method="post" action="/orders"><input type="hidden" name="item" value="{{.ID}}"><button>Order one</button></form></td></tr>
{{- end}}
</table>
<p>You are visitor {{.Visit}}. Served by {{.Host}}.</p>
</html>
`))

func (s *shop) page(w http.ResponseWriter, r *http.Request) {
	items, err := s.store.Items(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	visit, err := s.queue.Visit(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	host, err := os.Hostname()
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	err = page.Execute(w, map[string]any{
		"Greeting": s.greeting, "Items": items, "Visit": visit, "Host": host,
	})
	if err != nil {
		log.Print("web: cannot write the page: ", err)
	}
}

func (s *shop) items(w http.ResponseWriter, r *http.Request) {
	items, err := s.store.Items(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, items)
}

// order queues an order and says where its status is found.
func (s *shop) order(w http.ResponseWriter, r *http.Request) {
	item, err := strconv.Atoi(r.FormValue("item"))
	if err != nil {
		http.Error(w, "item must be a number", http.StatusBadRequest)
		return
	}
	quantity := 1
	if q := r.FormValue("quantity"); q != "" {
		if quantity, err = strconv.Atoi(q); err != nil || quantity < 1 {
			http.Error(w, "quantity must be a positive number", http.StatusBadRequest)
			return
		}
	}
	o := store.Order{ID: rand.Text(), Item: item, Quantity: quantity, Status: "queued"}
	if err := s.queue.Push(r.Context(), o); err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Location", "/orders/"+o.ID)
	reply(w, http.StatusSeeOther, o)
}

func (s *shop) status(w http.ResponseWriter, r *http.Request) {
	o, err := s.store.Order(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, store.ErrNoOrder):
		reply(w, http.StatusNotFound, store.Order{ID: r.PathValue("id"), Status: "queued"})
	case err != nil:
		fail(w, err)
	default:
		reply(w, http.StatusOK, o)
	}
}

func (s *shop) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := errors.Join(s.store.Ping(ctx), s.queue.Ping(ctx)); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "well")
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Print("web: cannot write the reply: ", err)
	}
}

func fail(w http.ResponseWriter, err error) {
	log.Print("web: ", err)
	http.Error(w, "the shop is out of order", http.StatusInternalServerError)
}
