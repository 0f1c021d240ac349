# Vault Agent: logs in, keeps the login fresh, and writes the Vault token to a file. It renames each new file onto the old one.
vault {
  address = "https://vault.example.com"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-agent/role-id"
      secret_id_file_path                 = "/etc/vault-agent/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }

  sink "file" {
    config = {
      path = "/var/run/vault/token"
      # Envoy's group reads it.
      mode = 0640
    }
  }
}
