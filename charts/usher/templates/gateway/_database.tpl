{{- /* Environment variables with the address of the database. Argument: [root, Secret with the address]. */ -}}
{{- define "usher.database.env" -}}
{{- $root := index . 0 -}}
{{- $secret := index . 1 -}}
- name: USHER_STORE
  valueFrom: {secretKeyRef: {name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }}}}
{{- if $root.Values.store.postgresql.caSecret.name }}
- {name: PGSSLMODE, value: verify-full}
- {name: PGSSLROOTCERT, value: /database/ca.crt}
{{- end }}
{{- end -}}

{{- /* The mount of the authority of the database's certificate, if the values name one. */ -}}
{{- define "usher.database.mounts" -}}
{{- if and (eq .Values.store.type "PostgreSQL") .Values.store.postgresql.caSecret.name -}}
- {name: database-ca, mountPath: /database, readOnly: true}
{{- end -}}
{{- end -}}

{{- /* The volume of the authority of the database's certificate, if the values name one. */ -}}
{{- define "usher.database.volumes" -}}
{{- $authority := .Values.store.postgresql.caSecret -}}
{{- if and (eq .Values.store.type "PostgreSQL") $authority.name -}}
- name: database-ca
  secret:
    secretName: {{ $authority.name | quote }}
    defaultMode: 0440
    items: [{key: {{ $authority.key | quote }}, path: ca.crt}]
{{- end -}}
{{- end -}}

{{- /* The address of the database, as a rule of a NetworkPolicy. */ -}}
{{- define "usher.database.egress" -}}
- ports: [{port: {{ .Values.store.postgresql.port }}}]
  {{- with .Values.store.postgresql.peers }}
  to: {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
